"""Past rows and past uses of a document, from the openings log."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from data.errors import BadInput
from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.provenance.openings import RECORD, OpeningsLog, merge_openings, read_openings
from data.provenance.trace import Tracer, walk
from data.shards.corpus import Corpus
from data.stream.loader import Batch
from data.stream.streams import Opening
from data.tokenization.tokenizer import Tokenizer
from tests.support.helpers import Corpora
from tests.support.stream_runs import edit, run, settings, small_units, start, texts

STEPS, CRASH = 20, 4
MOVING = {"causal": {"weight": [[100, 1.0], [500, 0.2]]}, "mlm": {"weight": 0.5}, "nsp": {"weight": 0.5}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        a = small_units(patch, folder, "a", texts(800, 1), unit=500)
        return {"a": a, "b": small_units(patch, folder, "b", texts(100, 2), unit=500)}


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def traced(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[History, dict[int, int], np.ndarray, int]:
    """A run of three attempts on 2, 3 and 1 ranks: each but the last goes on for some steps after the last
    checkpoint; T changes with the third. Returns history, fingerprints, openings and the rows it consumed."""
    folder = tmp_path_factory.mktemp("openings")
    asked = settings(tokenizer, small, {"a": 0.7, "b": 0.3}, block_bytes=500, objectives=MOVING)
    history, row, state = start(asked), 0, StreamPositions()
    rows: dict[int, int] = {}
    attempts = []
    for attempt, world in enumerate((2, 3, 1)):
        if attempt == 2:
            longer = settings(
                tokenizer, small, {"a": 0.5, "b": 0.5}, block_bytes=500, objectives=MOVING, length=128
            )
            history = edit(history, longer, row, state)
        paths = [folder / f"openings-{attempt}-{rank}.bin" for rank in range(world)]
        states: dict[int, StreamPositions] = {}

        def each(rank: int, batch: Batch, states: dict = states, first: int = row) -> None:
            if batch.first_row + batch.rows_global <= first + STEPS * 17:
                states[rank] = batch.state

        emitted = run(
            history,
            small,
            tokenizer,
            STEPS + CRASH,
            world=world,
            first_row=row,
            state=state,
            each=each,
            logs=[OpeningsLog(path) for path in paths],
        )
        attempts.append((row, [read_openings(path) for path in paths]))
        row, state = row + STEPS * 17, StreamPositions.merge(states.values())
        rows |= {number: print_ for number, print_ in emitted.rows.items() if number < row}
    return history, rows, merge_openings(attempts), row


def test_any_past_row_comes_back_bit_by_bit(
    traced: tuple[History, dict[int, int], np.ndarray, int], small: dict[str, Corpus], tokenizer: Tokenizer
) -> None:
    history, rows, openings, end = traced
    assert max(openings["build"]) >= 1
    tracer = Tracer(history, small, tokenizer, openings)
    assert {row.number: row.rows.fingerprints()[0] for row in tracer.rows(range(end))} == rows
    step = tracer.step(41)
    assert [row.number for row in step] == list(range(40 * 17, 41 * 17))
    for row in step:
        used = sum(segment.length for segment in row.segments)
        assert used == (row.rows.corpus[0] >= 0).sum()
        for segment in row.segments:
            assert (row.rows.start[0, segment.first : segment.first + segment.length] == segment.first).all()
            assert tokenizer.decode(row.rows.tokens[0])
    walked = walk(history, small, tokenizer, 41)
    assert [row.segments for row in walked] == [row.segments for row in step]


def test_seen_names_each_step_in_which_a_document_was_used(
    traced: tuple[History, dict[int, int], np.ndarray, int], small: dict[str, Corpus], tokenizer: Tokenizer
) -> None:
    history, _, openings, end = traced
    tracer = Tracer(history, small, tokenizer, openings)
    expected: dict[str, set[int]] = defaultdict(set)
    for row in tracer.rows(range(end)):
        for segment in row.segments:
            for part in segment.parts:
                if segment.corpus == "b":
                    expected[part.key].add(row.number)
    keys = [f"{number:09d}" for number in range(0, 100, 7)]
    seen = tracer.seen("b", keys, end)
    assert {key: {use.row for use in seen[key]} for key in keys} == {key: expected[key] for key in keys}
    assert any(len(uses) > 1 for uses in seen.values())
    with pytest.raises(BadInput, match="no sample"):
        tracer.seen("b", ["unheard of"], end)


def test_a_torn_record_is_ignored_and_a_later_attempt_supersedes(tmp_path: Path) -> None:
    assert RECORD.itemsize == 32
    path = tmp_path / "openings.bin"
    log = OpeningsLog(path)
    for row in (0, 10, 20):
        log(Opening(0, 0, row, row, 0, 10))
    log.close()
    path.write_bytes(path.read_bytes()[:-5])
    assert read_openings(path)["row"].tolist() == [0, 10]
    log = OpeningsLog(path)
    log(Opening(0, 0, 20, 21, 0, 10))
    log.close()
    assert read_openings(path)["row"].tolist() == [0, 10, 21]
    later = read_openings(path)
    merged = merge_openings([(0, [read_openings(path)]), (15, [later[2:]])])
    assert merged["row"].tolist() == [0, 10, 21]
