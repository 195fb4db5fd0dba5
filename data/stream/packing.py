"""Packing: which segments share a row, and the rows' arrays.

Best fit, longest first: each segment goes to the row in which it leaves the least room. Free rooms are a bit
mask with one stack of rows per room, and segments of equal length are placed together, so the search costs a
shift and a mask. Waste is about half a row a block, for a block is packed by itself.

A block keeps its segments as they were built; `write_rows` writes rows out when a batch takes them. Tokens
and targets of all rows are one concatenation each; the other arrays are written for the whole batch as they
usually are, and where a segment says otherwise over that. For a call of numpy costs as much as a hundred
positions: most are paid once a batch, and once a segment only in blocks that say what is not usual.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np

from data.stream.rows import Rows
from objectives.example import Examples, usual_weights
from objectives.ragged import starts_of
from objectives.registry import OBJECTIVES
from objectives.segments import ExampleSlice, Segments


def best_fit(lengths: np.ndarray, capacity: int, first: np.ndarray | None = None) -> list[list[int]]:
    """Rows as lists of indices into `lengths` (int [n], each from 1 to capacity), in the order in which they
    are opened. first: bool [n], those that are placed before all others.

        capacity 8        room left      rooms, as bits      rows_by_room
        row 0  ######··   2              bit 2               2: [0, 2]
        row 1  #####···   3              bit 3               3: [1]
        row 2  ######··   2

    A segment of 2 goes to the lowest bit from 2 on, so into row 2, which is full then and leaves the game.
    """
    order = np.argsort(-lengths, kind="stable") if first is None else np.lexsort((-lengths, ~first))
    sizes = lengths[order]
    ends = np.flatnonzero(np.diff(sizes, append=0)) + 1
    segments = order.tolist()
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    placed = 0
    for end, size in zip(ends.tolist(), sizes[ends - 1].tolist()):
        while placed < end:
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1  # its lowest bit
                row = rows_by_room[room].pop()
                if not rows_by_room[room]:
                    rooms ^= 1 << room
            else:
                room, row = capacity, len(rows)
                rows.append([])
            taken = min(room // size, end - placed)
            rows[row] += segments[placed : placed + taken]
            placed += taken
            room -= taken * size
            if room:
                rows_by_room[room].append(row)
                rooms |= 1 << room
    return rows


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """Where the segments of a build lie and which source tokens they used, in the order of the rows.

    Per segment: row, offset (first position), length, objective (registry id). spans: int64 [spans, 3]
    (document, start, stop), those of segment i being span_ends[i] … span_ends[i+1]. cut: bool [segments],
    behind those the text was cut for no other reason than to fill rows. tokens: int64 [rows, objectives],
    source tokens of each row by objective. cuts: int64 [rows], how many segments of each were cut so.
    """

    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    objective: np.ndarray
    span_ends: np.ndarray
    spans: np.ndarray
    cut: np.ndarray
    tokens: np.ndarray
    cuts: np.ndarray

    def used(self, rows: int) -> np.ndarray:
        """int64 [spans, 3]: what the first `rows` rows used."""
        return self.spans[: self.span_ends[np.searchsorted(self.row, rows)]]

    def documents(self, first: int, end: int) -> np.ndarray:
        """int64: those that have a part in rows first … end−1, some of them several times."""
        begin, stop = self.span_ends[np.searchsorted(self.row, [first, end])]
        return self.spans[begin:stop, 0]

    def segments_of(self, row: int) -> range:
        """The segments of a row."""
        first, end = np.searchsorted(self.row, [row, row + 1])
        return range(int(first), int(end))

    def spans_of(self, segment: int) -> list[tuple[int, int, int]]:
        """(document, start, stop) of the text that a segment uses."""
        first, end = self.span_ends[segment : segment + 2]
        return [(document, start, stop) for document, start, stop in self.spans[first:end].tolist()]

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The rows of a block, yet to be laid out. length: T; rows: where the segments of each lie; rooms: its
    padding; corpus: its id."""

    segments: Segments
    length: int
    rows: list[list[ExampleSlice]]
    rooms: list[int]
    corpus: int
    table: SegmentTable

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes held, to about a tenth."""
        return self.segments.nbytes + self.table.nbytes


def pack(
    segments: Segments,
    rows: Sequence[Sequence[int]],
    length: int,
    corpus: int,
    cut: Collection[int] = (),
) -> PackedBlock:
    """Rows of T = length positions of these segments, each a list of their numbers; corpus: its id; cut: the
    numbers of those that are parts of one and not its last."""
    table = _table(segments, rows, cut)
    used = np.bincount(table.row, table.length, len(rows)).astype(np.int64)
    slices = [[segments.slices[segment] for segment in row] for row in rows]
    return PackedBlock(segments, length, slices, (length - used).tolist(), corpus, table)


def write_rows(chosen: Sequence[tuple[PackedBlock, int]], height: int, length: int, pad: int) -> Rows:
    """Writes out rows. chosen: (block, number of the row) of each, and padding behind them up to `height`
    rows; length: T; pad: the token of padding.

        slices    a a a a  b b b  · ·  │  c c c c c c c  d d  │  · · · · · · · · ·       T = 9, height = 3
        begins    0        4      7       9              16      18
        start     0 0 0 0  4 4 4  7 8     0 0 0 0 0 0 0  7 7     0 1 2 3 4 5 6 7 8
        bound     as the Example says it, plus the segment's start; usually the position itself

    All rows are one run of slices, each row exactly T positions; only at the end it becomes [height, T].
    """
    padding = _padding(length, pad)
    slices: list[ExampleSlice] = [
        (padding, slice(0, 0), 0)
    ]  # so that there is something to join, in any case
    unusual: list[int] = []  # the slices that do not say what is usual
    for packed, row in chosen:
        first = len(slices)
        slices += packed.rows[row]
        if packed.segments.unusual:
            unusual += range(first, len(slices))
        if room := packed.rooms[row]:
            unusual.append(len(slices))
            slices.append((padding, slice(0, room), room))
    blank = height - len(chosen)
    unusual += range(len(slices), len(slices) + blank)
    slices += [(padding, slice(0, length), length)] * blank
    makers = [examples.maker for examples, _, _ in slices]
    corpora = [packed.corpus for packed, _ in chosen] + [-1] * blank
    sizes = np.array([size for _, _, size in slices])
    begins = starts_of(sizes)

    tokens = np.concatenate([examples.tokens[positions] for examples, positions, _ in slices])
    targets = np.concatenate([examples.targets[positions] for examples, positions, _ in slices])
    weights = usual_weights(targets)
    start = np.repeat((begins % length).astype(np.int32), sizes)
    bound = np.tile(np.arange(length, dtype=np.int32), height)
    objective = np.repeat(np.array(makers, np.int8), sizes)
    corpus = np.repeat(np.array(corpora, np.int8), length)
    # Over what is usual, what differs.
    for number in unusual:
        (examples, positions, size), begin = slices[number], int(begins[number])
        own = slice(begin, begin + size)
        if examples.weights is not None:
            weights[own] = examples.weights[positions]
        if examples.bound is not None:
            np.add(examples.bound[positions], begin % length, out=bound[own])
        if examples.objective is not None:
            objective[own] = examples.objective[positions]
        if examples is padding:
            start[own], corpus[own] = bound[own], -1
    arrays = (tokens, targets, weights, start, bound, objective, corpus)
    return Rows(*(array.reshape(height, length) for array in arrays))


@lru_cache(maxsize=8)
def _padding(length: int, pad: int) -> Examples:
    """A row of padding, in the form of a segment that nobody made."""
    blank = Rows.blank(1, length, pad)
    whole = np.zeros(1, np.int64), np.full(1, length)
    return Examples(-1, *whole, blank.tokens[0], blank.targets[0])


def _table(segments: Segments, rows: Sequence[Sequence[int]], cut: Collection[int]) -> SegmentTable:
    """Where the segments lie in these rows, each a list of their numbers.

    rows        [2, 0]  [1]           order      2 0 1
    lengths     5 3 7, of 0 1 2       offset     0 7 0         in the row: behind what stands before
    spans       a | b b' | c          spans      c a b b'      segment 1 has two of them
    span_ends   0 1 3 4               span_ends  0 1 2 4
    """
    order = np.fromiter(chain.from_iterable(rows), np.int64)
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    sizes = segments.lengths[order]
    before = starts_of(sizes)
    offsets = before - before[np.searchsorted(row_of, row_of)]
    counts = np.diff(segments.span_ends)[order]
    ends = np.append(0, np.cumsum(counts))
    from_ = np.arange(ends[-1]) + np.repeat(segments.span_ends[order] - ends[:-1], counts)
    spans = segments.spans[from_]
    objective = segments.objectives[order]
    cell = np.repeat(row_of * len(OBJECTIVES) + objective, counts)
    is_cut = np.isin(order, list(cut)) if cut else np.zeros(len(order), dtype=bool)
    tokens = np.bincount(cell, spans[:, 2] - spans[:, 1], minlength=len(rows) * len(OBJECTIVES))
    return SegmentTable(
        row=row_of,
        offset=offsets,
        length=sizes,
        objective=objective,
        span_ends=ends,
        spans=spans,
        cut=is_cut,
        tokens=tokens.astype(np.int64).reshape(len(rows), len(OBJECTIVES)),
        cuts=np.bincount(row_of[is_cut], minlength=len(rows)),
    )
