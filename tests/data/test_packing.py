"""Best fit and the arrays of rows, against slow ways to do the same."""

import random

import numpy as np
import pytest
import xxhash

from data.stream.packing import PackedBlock, best_fit, pack, write_rows
from data.stream.rows import DTYPES, Rows
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.registry import NAMES, OBJECTIVES
from objectives.segments import Texts
from tests.support.fake_tokenizer import FakeTokenizer

T = 64


def plain_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """The rooms that are left, by the textbook: longest first, into the fullest row that has room."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@pytest.mark.parametrize("capacity", [1, 7, 64, 1024])
def test_best_fit_is_the_textbooks(capacity: int) -> None:
    generator = random.Random(capacity)
    for count in (0, 1, 3, 50, 400):
        lengths = [generator.randint(1, capacity) for _ in range(count)]
        if count == 400:
            lengths = [min(length, 1 + capacity // 10) for length in lengths]
        rows = best_fit(np.array(lengths, dtype=np.int64), capacity)
        assert sorted(segment for row in rows for segment in row) == list(range(count))
        rooms = [capacity - sum(lengths[segment] for segment in row) for row in rows]
        assert sorted(rooms) == plain_best_fit(lengths, capacity)


def packed(corpus: int = 3, documents: int = 40, seed: int = 0) -> tuple[PackedBlock, list, list[list[int]]]:
    """A packed block of all objectives, its segments, and which of them each row has."""
    generator = np.random.default_rng(seed)
    tokenizer = FakeTokenizer()
    sizes = generator.integers(1, 3 * T, documents)
    texts = Texts.of([generator.integers(400, 431, size, np.int32) for size in sizes], tokenizer.control)
    mixture = Mixture.parse({name: {} for name in NAMES})
    builder = ExampleBuilder(texts, texts.whole(), mixture, 0, T, tokenizer, 7, list(range(documents)))
    segments = builder.segments()
    order = best_fit(segments.lengths, T)
    return pack(segments, order, T, corpus), list(segments), order


def laid_out(block: PackedBlock) -> Rows:
    """All rows of a block."""
    return write_rows([(block, row) for row in range(len(block))], len(block), T, FakeTokenizer().control.pad)


def test_rows_hold_their_segments_side_by_side_and_padding_behind() -> None:
    block, segments, order = packed()
    rows = laid_out(block)
    place = np.arange(T)
    for number, row in enumerate(order):
        at = 0
        for segment in row:
            example = segments[segment].example
            end = at + len(example.tokens)
            for name in ("tokens", "targets", "weights", "objective"):
                assert (getattr(rows, name)[number, at:end] == getattr(example, name)).all()
            assert (rows.bound[number, at:end] == example.bound + at).all()
            assert (rows.start[number, at:end] == at).all()
            assert (rows.corpus[number, at:end] == 3).all()
            at = end
        for name, empty in (
            ("tokens", 0),
            ("targets", -1),
            ("weights", 0),
            ("objective", -1),
            ("corpus", -1),
        ):
            assert (getattr(rows, name)[number, at:] == empty).all()
        for name in ("start", "bound"):
            assert (getattr(rows, name)[number, at:] == place[at:]).all()
    blank = Rows.blank(1, T, 0)
    for name, array in rows.arrays().items():
        assert array.dtype == getattr(blank, name).dtype


def test_the_table_says_what_each_row_used() -> None:
    block, segments, order = packed()
    table = block.table
    for number, row in enumerate(order):
        spans = [(s.document, s.start, s.stop) for segment in row for s in segments[segment].spans]
        found = [span for segment in table.segments_of(number) for span in table.spans_of(segment)]
        assert found == spans
        for objective in range(len(OBJECTIVES)):
            mine = [segments[segment] for segment in row if segments[segment].objective == objective]
            tokens = sum(span.stop - span.start for segment in mine for span in segment.spans)
            assert table.tokens[number, objective] == tokens
    used = {tuple(span) for span in table.used(2).tolist()}
    assert used == {
        span for n in range(2) for segment in table.segments_of(n) for span in table.spans_of(segment)
    }


def test_a_batch_has_the_rows_of_several_blocks_and_padding_behind() -> None:
    first, second = packed(corpus=0)[0], packed(corpus=1, seed=5)[0]
    chosen = [(second, 1), (first, 0), (second, 0), (first, 3)]
    pad = FakeTokenizer().control.pad
    batch = write_rows(chosen, 6, T, pad)
    expected = [laid_out(block).fingerprints()[row] for block, row in chosen]
    assert batch.fingerprints() == expected + Rows.blank(2, T, pad).fingerprints()
    assert write_rows([], 2, T, pad).fingerprints() == Rows.blank(2, T, pad).fingerprints()


@pytest.mark.parametrize("length", [1, 7, 64])
def test_the_fingerprint_is_the_hash_of_the_arrays_in_order(length: int) -> None:
    generator = np.random.default_rng(3)
    arrays = {name: generator.integers(0, 99, (3, length)).astype(dtype) for name, dtype in DTYPES.items()}
    rows = Rows.of(arrays)
    for name, array in rows.arrays().items():
        assert (array == arrays[name]).all()
    for row, fingerprint in enumerate(rows.fingerprints()):
        digest = xxhash.xxh64()
        for array in arrays.values():
            digest.update(array[row].tobytes())
        assert fingerprint == digest.intdigest()
    assert Rows.join([rows[1:], rows[:1]]).fingerprints() == [rows.fingerprints()[i] for i in (1, 2, 0)]


def test_a_block_without_segments_has_no_rows() -> None:
    texts = Texts.of([], FakeTokenizer().control)
    mixture = Mixture.parse({"causal": {}})
    segments = ExampleBuilder(texts, texts.whole(), mixture, 0, T, FakeTokenizer(), 7, []).segments()
    block = pack(segments, best_fit(segments.lengths, T), T, 0)
    assert len(block) == len(laid_out(block)) == 0
    assert len(block.table.used(0)) == 0
