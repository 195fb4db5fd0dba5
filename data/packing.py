"""Packing: which pieces share a row, and the rows' arrays.

Best fit, longest first: each piece goes to the row in which it leaves the least room. Free rooms are a bit
mask with one stack of rows per room, and pieces of equal length are placed together, so the search costs a
shift and a mask. Waste is about half a row a block, for a block is packed by itself.

All rows of a block are laid out at once, by one concatenation an array: a call of numpy costs as much as a
hundred positions, so one for each row and array would cost more than the copying.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data.rows import DTYPES, Rows
from objectives.pieces import Pieces
from objectives.registry import OBJECTIVES


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows as lists of indices into `lengths` (int [n], each from 1 to capacity)."""
    order = np.argsort(-lengths, kind="stable")
    sizes = lengths[order]
    ends = np.flatnonzero(np.diff(sizes, append=0)) + 1
    pieces = order.tolist()
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    place = 0
    for end, size in zip(ends.tolist(), sizes[ends - 1].tolist()):
        while place < end:
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                row = rows_by_room[room].pop()
                if not rows_by_room[room]:
                    rooms ^= 1 << room
            else:
                room, row = capacity, len(rows)
                rows.append([])
            taken = min(room // size, end - place)
            rows[row] += pieces[place : place + taken]
            place += taken
            room -= taken * size
            if room:
                rows_by_room[room].append(row)
                rooms |= 1 << room
    return rows


@dataclass(frozen=True, slots=True)
class PieceTable:
    """Where the pieces of a dressing lie and which source tokens they used, in the order of the rows.

    Per piece: row, offset (first position), length, objective (registry id). spans: int64 [spans, 3]
    (document, start, stop), those of piece i being span_ends[i] … span_ends[i+1]. tokens: int64 [rows,
    objectives], source tokens of each row by objective.
    """

    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    objective: np.ndarray
    span_ends: np.ndarray
    spans: np.ndarray
    tokens: np.ndarray

    def used(self, rows: int) -> np.ndarray:
        """int64 [spans, 3]: what the first `rows` rows used."""
        return self.spans[: self.span_ends[np.searchsorted(self.row, rows)]]

    def pieces_of(self, row: int) -> range:
        """The pieces of a row."""
        first, end = np.searchsorted(self.row, [row, row + 1])
        return range(int(first), int(end))

    def spans_of(self, piece: int) -> list[tuple[int, int, int]]:
        """(document, start, stop) of the text that a piece uses."""
        first, end = self.span_ends[piece : piece + 2]
        return [(document, start, stop) for document, start, stop in self.spans[first:end].tolist()]

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.__slots__)


def lay(
    pieces: Pieces, packed: Sequence[Sequence[int]], length: int, pad: int, corpus: int
) -> tuple[Rows, PieceTable]:
    """Writes pieces into rows. packed: the rows as lists of pieces; length: T; pad: the token of padding;
    corpus: its id."""
    order = np.fromiter(chain.from_iterable(packed), np.int64)
    counts = np.fromiter((len(row) for row in packed), np.int64, len(packed))
    sizes = pieces.lengths[order]
    before = np.append(0, np.cumsum(sizes))
    ends = np.cumsum(counts)
    row_of = np.repeat(np.arange(len(packed)), counts)
    offsets = before[:-1] - before[ends - counts][row_of]
    used = before[ends] - before[ends - counts]
    rows = Rows.empty(len(packed), length)
    if len(packed):
        # A row's segments are its pieces and one of padding, which may be empty.
        places = np.insert(order, ends, len(pieces) + np.arange(len(packed))).tolist()
        room = (length - used).tolist()
        extents = np.insert(sizes, ends, room)

        def write(name: str, values: np.ndarray) -> None:
            array = getattr(rows, name)
            array[:] = values.reshape(array.shape)

        def join(name: str, padding: np.ndarray) -> np.ndarray:
            padding = padding.astype(DTYPES[name])
            views = pieces.arrays(name) + [padding[:positions] for positions in room]
            return np.concatenate([views[place] for place in places])

        # Each array is written before the next is made: it still lies in the cache.
        write("tokens", join("tokens", np.full(length, pad)))
        write("targets", join("targets", np.full(length, -1)))
        write("weights", join("weights", np.zeros(length)))
        write("objective", join("objective", np.full(length, -1)))
        corpora = np.repeat(np.insert(np.full(len(order), corpus, np.int8), ends, np.int8(-1)), extents)
        write("corpus", corpora)
        start = np.repeat(np.insert(offsets, ends, used).astype(np.int32), extents)
        bound = join("bound", np.arange(length))
        bound += start
        write("bound", bound)
        empty = np.flatnonzero(corpora < 0)
        start[empty] = bound[empty]
        write("start", start)
    return rows, _table(pieces, order, row_of, offsets, sizes, len(packed))


def _table(
    pieces: Pieces, order: np.ndarray, row_of: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, rows: int
) -> PieceTable:
    counts = np.diff(pieces.span_ends)[order]
    ends = np.append(0, np.cumsum(counts))
    from_ = np.arange(ends[-1]) + np.repeat(pieces.span_ends[order] - ends[:-1], counts)
    spans = pieces.spans[from_]
    objective = pieces.objectives[order]
    cell = np.repeat(row_of * len(OBJECTIVES) + objective, counts)
    tokens = np.bincount(cell, spans[:, 2] - spans[:, 1], minlength=rows * len(OBJECTIVES)).astype(np.int64)
    return PieceTable(
        row=row_of,
        offset=offsets,
        length=sizes,
        objective=objective,
        span_ends=ends,
        spans=spans,
        tokens=tokens.reshape(rows, len(OBJECTIVES)),
    )
