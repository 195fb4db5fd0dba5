"""The stream's promise: the rows depend on the seed, the text and the plan, and on nothing else."""

import pytest

from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from tests.support.helpers import Corpora
from tests.support.stream_runs import Emitted, edit, run, settings, small_units, start, texts

WEIGHTS = {"a": [[0, 0.9], [400, 0.6], [401, 0.8]], "b": 0.2}
"""Of `a` first falling, then constant: the rows of 50 steps see both."""
MIXED = {"causal": {"weight": 2}, "mlm": {}, "nsp": {}, "span": {}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """`a`: about 400 units in three shards (six streams); `b`: about 60 units (one stream)."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        return {
            "a": small_units(patch, folder, "a", texts(5_000, 1), shard_bytes=2_000_000),
            "b": small_units(patch, folder, "b", texts(600, 2)),
        }


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def history(small: dict[str, Corpus], tokenizer: Tokenizer) -> History:
    history = start(settings(tokenizer, small, WEIGHTS, objectives=MIXED))
    assert [corpus.streams for corpus in history.at(0).corpora] == [6, 1]
    return history


@pytest.fixture(scope="module")
def straight(history: History, small: dict[str, Corpus], tokenizer: Tokenizer) -> Emitted:
    """50 steps of one rank without threads: what all others are compared with."""
    emitted = run(history, small, tokenizer, 50)
    assert sorted(emitted.rows) == list(range(50 * 17))
    return emitted


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_rows_are_equal_for_any_ranks_threads_and_resume(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    world: int,
    threads: int,
) -> None:
    other = run(history, small, tokenizer, 50, world=world, threads=threads)
    assert other.rows == straight.rows
    assert other.state == straight.state
    assert len(other.heights) == 50, "all ranks have the same number of rows in a step"

    half = run(history, small, tokenizer, 20, world=world, threads=threads)
    state = StreamPositions.from_json(half.state.to_json())
    rest = run(
        history, small, tokenizer, 30, world=6 - world, threads=threads, first_row=half.row, state=state
    )
    assert half.rows | rest.rows == straight.rows
    assert rest.state == straight.state


@pytest.mark.parametrize("world", [16, 64])
def test_a_run_begun_on_one_rank_goes_on_with_more_ranks_than_lanes(
    history: History, small: dict[str, Corpus], tokenizer: Tokenizer, straight: Emitted, world: int
) -> None:
    """And back on 5: rows and state are those of one rank throughout."""
    first = run(history, small, tokenizer, 10)
    more = run(history, small, tokenizer, 20, world=world, first_row=first.row, state=first.state)
    last = run(history, small, tokenizer, 20, world=5, first_row=more.row, state=more.state)
    assert first.rows | more.rows | last.rows == straight.rows
    assert last.state == straight.state


@pytest.mark.parametrize("world, threads", [(1, 3), (2, 0), (3, 1), (4, 3), (5, 0)])
def test_a_batch_size_edited_at_step_30_changes_no_row(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    world: int,
    threads: int,
) -> None:
    """17 rows a step, then 13: they divide neither lanes nor ranks, nor are they divided."""
    first = run(history, small, tokenizer, 30, world=world, threads=threads)
    asked = settings(tokenizer, small, WEIGHTS, objectives=MIXED, batch_rows=13)
    edited = edit(history, asked, first.row, first.state)
    then = run(
        edited, small, tokenizer, 20, world=world, threads=threads, first_row=first.row, state=first.state
    )
    assert then.row == 30 * 17 + 20 * 13
    assert first.rows | then.rows == {row: mark for row, mark in straight.rows.items() if row < then.row}
