"""Counting tokens in the rows themselves: whatever is edited in mid-run, each place of a corpus's epochs
gives each of its tokens once, and nothing else does.

Every token of the text is a number that stands nowhere else, so a row says whose tokens it holds without the
stream's own notes. What is expected comes from arithmetic alone: the blocks of the slots that each stream
has passed (data/plan/epochs.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.plan.make import CorpusSettings, StreamSettings
from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus
from data.stream.block import Opener
from data.stream.loader import Batch
from data.stream.rows import Rows
from objectives.example import ControlIds
from objectives.registry import NAMES, objective_id
from objectives.schedule import Schedule
from tests.support.stream_runs import Emitted, edit, joined, run, settings, small_units, start

SIZE, TEXT = 50_000, 10_000
"""Ids in all, and the first that stands for text: five digits, so that all are alike in bytes."""
MASKED = [objective_id("mlm"), objective_id("nsp")]


class Numbers:
    """A tokenizer of texts such as "10007 10008": each number is its own id."""

    hash = encoding = "numbers"
    size = SIZE
    control = ControlIds(0, 1, 2, 3, 4, 5, 6, 7, 8, {"R": 9, "S": 10, "X": 11}, tuple(range(12, 112)))
    ordinary = np.arange(TEXT, SIZE, dtype=np.int32)
    word_start = np.ones(SIZE, dtype=bool)
    joined = unspaced = np.zeros(SIZE, dtype=bool)
    spread = np.ones(SIZE, dtype=np.int32)

    def encode_documents(self, texts: list[str]) -> list[np.ndarray]:
        return [ids_in(text) for text in texts]

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(map(str, tokens.tolist()))

    def byte_lengths(self, text: str, tokens: np.ndarray) -> np.ndarray:
        return np.full(len(tokens), 6)


NUMBERS: Any = Numbers()


def ids_in(text: str) -> np.ndarray:
    """The numbers of a text."""
    return np.array(text.split(), dtype=np.int32)


def numbered(folder: Path, name: str, first: int, documents: int) -> Corpus:
    """Documents of 1 to 150 tokens, numbered from `first` on, in units of about 300 bytes."""
    sizes = 1 + (149 * np.random.default_rng(first).random(documents) ** 6).astype(int)
    ends = first + np.cumsum(sizes)
    texts = [" ".join(map(str, range(end - size, end))) for end, size in zip(ends, sizes)]
    with pytest.MonkeyPatch.context() as patch:
        return small_units(patch, folder, name, texts, unit=300)


def documents(corpora: Mapping[str, Corpus]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((corpus, key), ids) of every document."""
    for name, corpus in corpora.items():
        for unit in range(len(corpus)):
            for sample in corpus.read_unit(unit):
                yield (name, sample.key), ids_in(sample.text or "")


def source_ids(rows: Rows) -> np.ndarray:
    """The text's ids of which rows are made, each as often as it was used: hidden ones from the targets; else
    what is predicted, and what stands in a prompt and nobody predicts. The token in front of a segment is
    there to be looked at only, but for `span`, whose prompt begins with text."""
    tokens, targets = rows.tokens, rows.targets
    hidden = np.isin(rows.objective, MASKED)
    unpredicted = np.zeros(tokens.shape, dtype=bool)
    unpredicted[:, 1:] = targets[:, :-1] < 0
    opens = rows.start == np.arange(rows.length)
    unpredicted[opens] = (rows.objective == objective_id("span"))[opens]
    plain = ~hidden & (rows.objective >= 0)
    used = np.concatenate(
        [
            np.where(targets >= TEXT, targets, tokens)[hidden],
            targets[plain],
            tokens[plain & unpredicted],
        ]
    )
    return used[used >= TEXT]


class Counts:
    """How often the batches of all ranks have used each id."""

    def __init__(self) -> None:
        self.ids = np.zeros(SIZE, dtype=np.int64)

    def add(self, _: int, batch: Batch) -> None:
        self.ids += np.bincount(source_ids(batch.rows), minlength=SIZE)


def passed(
    history: History, corpora: Mapping[str, Corpus], state: StreamPositions
) -> tuple[np.ndarray, np.ndarray]:
    """(at least, at most) how often each id was used, from where the streams stand: once for each slot
    passed of its block, once more perhaps for a block that is open."""
    opener = Opener(PlanSegments(history), corpora, NUMBERS)
    least, most = np.zeros(SIZE, dtype=np.int64), np.zeros(SIZE, dtype=np.int64)
    for corpus in history.newest.corpora:
        order, blocks = opener.orders[corpus.name], opener.blocks[corpus.name]
        positions = [state.at(corpus.name, stream) for stream in range(corpus.streams)]
        reached = [j for j, _ in positions]
        # Slots of the open block: those of a plan of longer rows than planned are several.
        opened = [history.at(builds[0][0]).slots if builds else 0 for _, builds in positions]
        for block in range(len(blocks)):
            slots = list(order.slots_of(block, (max(reached) + max(opened) + 1) * corpus.streams))
            ahead = [
                (slot // corpus.streams - reached[slot % corpus.streams], opened[slot % corpus.streams])
                for slot in slots
            ]
            for unit in blocks.units_of(block):
                for sample in corpora[corpus.name].read_unit(unit):
                    ids = ids_in(sample.text or "")
                    least[ids] += sum(j < 0 for j, _ in ahead)
                    most[ids] += sum(j < open_slots for j, open_slots in ahead)
    return least, most


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """`a`: about 150 blocks (2 streams), `b` and `c`: about 25 (1 stream)."""
    folder = tmp_path_factory.mktemp("numbers")
    made = {"a": (10_000, 800), "b": (30_000, 100), "c": (34_000, 100)}
    return {name: numbered(folder, name, *asked) for name, asked in made.items()}


@pytest.fixture(scope="module")
def appended(first: dict[str, Corpus], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """With more shards of `a` and `b`."""
    folder = tmp_path_factory.mktemp("appended")
    more = {"a": numbered(folder, "more_a", 38_000, 100), "b": numbered(folder, "more_b", 42_000, 60)}
    (folder / "joined").mkdir()
    return {**first, **{name: joined(folder / "joined", name, first[name], more[name]) for name in more}}


def asked(corpora: Mapping[str, Corpus], weights: Mapping[str, Any], **changes: Any) -> StreamSettings:
    """Settings without held-out units, T 32 and B 37, with three or four rows a block."""
    given = {"block_bytes": 600, "length": 32, "batch_rows": 37, **changes}
    plain = settings(NUMBERS, corpora, weights, **given)
    whole = {
        name: CorpusSettings(corpora[name], Schedule.parse(weight), 0.0) for name, weight in weights.items()
    }
    return replace(plain, corpora=whole)


OUT = [("a", f"{number:09d}") for number in range(800) if number % 3] + [("b", "000000050")]
ALL: dict[str, Any] = {name: {} for name in NAMES}
PLAIN: dict[str, Any] = {"weights": {"a": 0.7, "b": 0.3}, "objectives": ALL}
MOVING = {"causal": {"weight": [[300, 1.0], [900, 0.0]]}, "span": {"weight": [[300, 0.0], [900, 1.0]]}}
EDITS: dict[str, dict[str, Any]] = {
    "batch size": {"batch_rows": 41},
    "weights": {"weights": {"a": 0.4, "b": 0.6}},
    "weights that move": {"weights": {"a": [[300, 0.7], [900, 0.5]], "b": [[500, 0.1], [501, 0.6]]}},
    "a third corpus": {"weights": {"a": 0.5, "b": 0.3, "c": 0.2}},
    "a corpus dropped": {"weights": {"a": 1.0}},
    "shards appended": {},
    "objectives": {"objectives": {"reverse": {}, "prefix": {}, "fim": {}}},
    "T doubled": {"length": 64},
    "T four times the longest planned": {"length": 512, "max_length": 512, "batch_rows": 5},
    "a bound on padding": {"padding": 0.01},
    "both": {"length": 300, "max_length": 300, "batch_rows": 5, "padding": 0.01},
    "documents quarantined": {"quarantine": OUT},
    "a schedule that moves": {"objectives": MOVING},
}


@pytest.fixture(scope="module")
def before(first: dict[str, Corpus]) -> tuple[History, Emitted, np.ndarray]:
    """A run of 296 rows on three ranks: its plan, where it ended, and the counts."""
    history, counts = start(asked(first, **PLAIN)), Counts()
    ran = run(history, first, NUMBERS, 8, world=3, threads=1, each=counts.add)
    least, most = passed(history, first, ran.state)
    assert ((least <= counts.ids) & (counts.ids <= most)).all()
    assert [corpus.streams for corpus in history.newest.corpora] == [2, 1]
    assert (most > least).sum() > 50, "blocks are open"
    return history, ran, counts.ids


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_neither_repeats_nor_loses_a_token(
    first: dict[str, Corpus],
    appended: dict[str, Corpus],
    before: tuple[History, Emitted, np.ndarray],
    name: str,
) -> None:
    """The edit in mid-run, with blocks open, then more than an epoch of every corpus on two ranks."""
    history, ran, earlier = before
    corpora = appended if name == "shards appended" else first
    later = edit(history, asked(corpora, **{**PLAIN, **EDITS[name]}), ran.row, ran.state)
    counts = Counts()
    after = run(later, corpora, NUMBERS, 44, world=2, first_row=ran.row, state=ran.state, each=counts.add)
    least, most = passed(later, corpora, after.state)
    out = set(later.newest.quarantine)
    skipped = [ids for place, ids in documents(corpora) if place in out]
    assert len(skipped) == len(out)
    for ids in skipped:
        assert not counts.ids[ids].any(), "a quarantined document was used"
        least[ids] = 0
    assert (least <= earlier + counts.ids).all(), "lost"
    assert (earlier + counts.ids <= most).all(), "twice"
    for corpus in later.newest.corpora:
        if corpus.weight.most:
            own = documents({corpus.name: corpora[corpus.name]})
            ids = np.concatenate([ids for place, ids in own if place not in out])
            assert counts.ids[ids].mean() > 1, f"{corpus.name}: less than an epoch since the edit"


@pytest.mark.parametrize("objectives", [{"causal": {}}, ALL], ids=["causal", "all"])
def test_one_shard_three_ranks_four_threads_two_epochs(
    first: dict[str, Corpus], objectives: dict[str, Any]
) -> None:
    """One stream puts its epochs one behind the other: after two, each token was used twice, in a block of
    the third perhaps once more."""
    corpora = {"b": first["b"]}
    assert len(corpora["b"].shards) == 1
    history, counts = start(asked(corpora, {"b": 1.0}, objectives=objectives)), Counts()
    ran = run(history, corpora, NUMBERS, 4, world=3, threads=4, each=counts.add)
    least, most = passed(history, corpora, ran.state)
    assert ((least <= counts.ids) & (counts.ids <= most)).all()
    used = np.concatenate([ids for _, ids in documents(corpora)])
    assert set(least[used].tolist()) == {2, 3}
    assert not np.delete(counts.ids, used).any()
