"""Edits of the plan in mid-run: nothing of a corpus is emitted twice or lost within an epoch, and the rows
are the same however the run was cut into attempts, ranks and threads."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.shards.corpus import Corpus
from data.stream.streams import Opening
from data.tokenization.tokenizer import Tokenizer
from objectives.registry import NAMES
from tests.support.helpers import Corpora
from tests.support.stream_runs import Ledger, edit, joined, run, settings, small_units, start, texts

STEPS = 14
ALL: dict[str, dict] = {name: {} for name in NAMES}


@dataclass(frozen=True)
class Small:
    """`a`: about 130 units (2 streams), `b`: about 20, `c`: about 15; `later`: with shards appended."""

    first: dict[str, Corpus]
    later: dict[str, Corpus]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("edits")
    (folder / "later").mkdir()
    with pytest.MonkeyPatch.context() as patch:

        def make(name: str, count: int, seed: int) -> Corpus:
            return small_units(patch, folder, name, texts(count, seed), unit=500)

        first = {"a": make("a", 800, 1), "b": make("b", 120, 2), "c": make("c", 90, 3)}
        more_a, more_b = make("more_a", 120, 4), make("more_b", 90, 5)
    later = {
        "a": joined(folder / "later", "a", first["a"], more_a),
        "b": joined(folder / "later", "b", first["b"], more_b),
        "c": first["c"],
    }
    return Small(first, later)


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


def edits(small: Small) -> list[tuple[dict[str, Corpus], dict[str, float], dict[str, Any]]]:
    """The corpora, weights and other settings of each attempt."""
    ab = {"a": 0.7, "b": 0.3}
    abc = {"a": 0.5, "b": 0.3, "c": 0.2}
    moving = {
        "causal": {"weight": [[1_600, 1.0], [2_000, 0.2]]},
        "mlm": {"weight": 0.5},
        "fim": {"weight": 0.3},
    }
    out = tuple((corpus, f"{number:09d}") for corpus in "ab" for number in (3, 5, 17, 77, 111))
    first, later = small.first, small.later
    return [
        (first, ab, {}),
        (first, {"a": 0.3, "b": 0.7}, {}),
        (first, abc, {}),
        (later, abc, {}),
        (later, abc, {"objectives": ALL}),
        (later, abc, {"objectives": ALL, "length": 128, "batch_rows": 11}),
        (later, abc, {"objectives": moving, "length": 128, "batch_rows": 23}),
        (later, abc, {"objectives": moving, "quarantine": out}),
        (later, {"a": 0.6, "c": 0.4}, {"objectives": moving, "quarantine": out}),
        (later, abc, {"objectives": {"causal": {}}, "quarantine": out}),
    ]


@pytest.fixture(scope="module")
def edited(small: Small, tokenizer: Tokenizer) -> tuple[History, dict[int, int], StreamPositions]:
    """The history, rows and last state of a run of ten attempts on one rank."""
    ledger = Ledger()
    rows: dict[int, int] = {}
    history, row, state = None, 0, StreamPositions()
    for corpora, weights, changes in edits(small):
        asked = settings(tokenizer, corpora, weights, block_bytes=500, **changes)
        history = edit(history, asked, row, state) if history else start(asked)
        emitted = run(history, corpora, tokenizer, STEPS, first_row=row, state=state)
        walked = ledger.walk(history, corpora, tokenizer, row, emitted.row, state)
        assert walked == emitted.state
        rows |= emitted.rows
        row, state = emitted.row, emitted.state
    assert history
    assert len(history.segments) == 10
    over = ledger.check(history, small.later, tokenizer, state)
    assert over["a"] >= 1
    assert over["b"] >= 3
    assert over["c"] >= 1
    return history, rows, state


def test_edits_neither_repeat_nor_lose_a_token(
    edited: tuple[History, dict[int, int], StreamPositions],
) -> None:
    history, rows, _ = edited
    assert sorted(rows) == list(range(len(rows)))
    assert [len(corpus.eras) for corpus in history.segments[-1][1].corpora] == [2, 2, 1]


@pytest.mark.parametrize("world, threads", [(1, 2), (3, 0), (4, 2)])
def test_rows_do_not_depend_on_how_the_edited_run_was_cut_up(
    small: Small,
    tokenizer: Tokenizer,
    edited: tuple[History, dict[int, int], StreamPositions],
    world: int,
    threads: int,
) -> None:
    history, rows, last = edited
    straight = run(history, small.later, tokenizer, 10 * STEPS, world=world, threads=threads)
    assert straight.rows == rows
    assert straight.state == last


EDITS: list[tuple[dict[str, Any], bool]] = [
    ({"batch_rows": 5}, False),
    ({"weights": {"a": 0.5, "b": 0.5}}, False),
    ({"weights": {"a": 0.7, "b": 0.3, "c": 0.1}}, False),
    ({"normalise": "objective"}, False),
    ({"padding": 0.01}, False),
    ({"objectives": {"causal": {"coefficient": 2.0}, "mlm": {}}}, False),
    ({"objectives": {"causal": {"weight": 1.1}, "mlm": {}}}, False),
    ({"objectives": {"causal": {"weight": 2.0}, "mlm": {}}}, True),
    ({"objectives": {"causal": {}, "mlm": {"select": 0.3}}}, True),
    ({"objectives": {"causal": {}, "mlm": {}, "fim": {}}}, True),
    ({"length": 128}, True),
    ({"length": 32}, True),
    ({"quarantine": [("a", f"{number:09d}") for number in range(0, 800, 3)]}, True),
    ({"quarantine": [("c", f"{number:09d}") for number in range(800)]}, False),
]


@pytest.mark.parametrize("changes, anew", EDITS)
def test_open_blocks_are_built_anew_only_where_their_rows_change(
    small: Small, tokenizer: Tokenizer, changes: dict[str, Any], anew: bool
) -> None:
    weights = changes.get("weights", {"a": 0.7, "b": 0.3})
    others = {name: value for name, value in changes.items() if name != "weights"}
    plain: dict[str, Any] = {"objectives": {"causal": {}, "mlm": {}}}
    asked = settings(tokenizer, small.first, {"a": 0.7, "b": 0.3, "c": 0.0}, **plain)
    history = start(asked)
    first = run(history, small.first, tokenizer, 3)
    changed = settings(tokenizer, small.first, {"c": 0.0, **weights}, **{**plain, **others})
    edited = edit(history, changed, first.row, first.state)
    log: list[Opening] = []
    run(edited, small.first, tokenizer, 3, first_row=first.row, state=first.state, logs=[log.append])
    assert any(opening.build for opening in log) == anew


def test_a_schedule_builds_anew_when_it_has_moved_by_a_tenth(small: Small, tokenizer: Tokenizer) -> None:
    """mlm's share goes from 0 to 1 over 200 rows: a block that is open for longer than 20 is built anew."""
    moving = {"causal": {"weight": [[0, 1.0], [200, 0.0]]}, "mlm": {"weight": [[0, 0.0], [200, 1.0]]}}
    asked = settings(tokenizer, small.first, {"a": 1.0}, block_bytes=10_000, objectives=moving)
    log: list[Opening] = []
    run(start(asked), small.first, tokenizer, 15, logs=[log.append])
    builds = [(opening.j, opening.build, opening.row) for opening in log]
    anew = [(later[2] - earlier[2]) for earlier, later in pairwise(builds) if later[0] == earlier[0]]
    assert anew
    assert min(anew) >= 20
    steady = [opening for opening in log if opening.row >= 200]
    assert not any(opening.build > 1 for opening in steady)
