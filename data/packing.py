"""Packing: which pieces share a row, and the rows' arrays.

Best fit, longest first: each piece goes to the row in which it leaves the least room. Free rooms are a bit
mask with one stack of rows per room, and pieces of equal length are placed together, so the search costs a
shift and a mask (facts/data.md: 8-12 ns a token for all of this file). Waste is about half a row a block, for
a block is packed by itself. The arrays of all rows are made by one concatenation each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data.rows import DTYPES, Rows
from objectives.mixture import Piece
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

    Per piece: row, offset (first position), length, objective (registry id), spans (cumulative: the spans of
    piece i are spans[i] … spans[i+1]). Per span: document, start, stop. tokens: int64 [rows, objectives],
    source tokens of each row by objective.
    """

    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    objective: np.ndarray
    spans: np.ndarray
    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    tokens: np.ndarray

    def used(self, rows: int) -> np.ndarray:
        """int64 [spans, 3]: (document, start, stop) of what the first `rows` rows used."""
        end = self.spans[np.searchsorted(self.row, rows)]
        return np.stack([self.document[:end], self.start[:end], self.stop[:end]], axis=1)

    def pieces_of(self, row: int) -> range:
        """The pieces of a row."""
        first, end = np.searchsorted(self.row, [row, row + 1])
        return range(int(first), int(end))

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.__slots__)


def build_rows(
    pieces: Sequence[Piece], packed: Sequence[Sequence[int]], length: int, pad: int, corpus: int
) -> tuple[Rows, PieceTable]:
    """The rows in the order of `packed`, T = length positions each, and the table of their pieces."""
    lengths = np.fromiter((len(piece.example.tokens) for piece in pieces), np.int64, len(pieces))
    order = np.fromiter(chain.from_iterable(packed), np.int64)
    row_ends = np.cumsum(np.fromiter((len(row) for row in packed), np.int64, len(packed)))
    sizes = lengths[order]
    before = np.concatenate([[0], np.cumsum(sizes)])
    row_of = np.repeat(np.arange(len(packed)), np.diff(row_ends, prepend=0))
    row_starts = before[np.concatenate([[0], row_ends[:-1]])] if len(packed) else before[:0]
    offsets = before[:-1] - row_starts[row_of]
    used = (before[row_ends] - row_starts).tolist()

    rows = _arrays(pieces, packed, used, length, pad, corpus)
    starts = rows.start.reshape(-1)
    filled = rows.corpus.reshape(-1) >= 0
    starts[filled] = np.repeat(offsets, sizes)
    rows.bound[...] += np.where(rows.corpus >= 0, rows.start, 0)
    return rows, _table(pieces, order, row_of, offsets, sizes, len(packed))


def _arrays(
    pieces: Sequence[Piece],
    packed: Sequence[Sequence[int]],
    used: Sequence[int],
    length: int,
    pad: int,
    corpus: int,
) -> Rows:
    """Rows whose `bound` is still relative to the piece, and whose `start` is still the position itself."""
    fills = {"tokens": pad, "targets": -1, "weights": 0, "bound": 0, "objective": -1}
    arrays = {}
    examples = [[pieces[piece].example for piece in row] for row in packed]
    place = np.arange(length, dtype="<i4")
    for name, fill in fills.items():
        padding = place if name == "bound" else np.full(length, fill, DTYPES[name])
        parts = []
        for row, end in zip(examples, used):
            parts += [getattr(example, name) for example in row]
            parts.append(padding[end:])
        flat = np.empty(len(packed) * length, DTYPES[name])
        if parts:
            np.concatenate(parts, out=flat)
        arrays[name] = flat.reshape(len(packed), length)
    start = np.broadcast_to(place, (len(packed), length)).copy()
    ids = np.where(place < np.asarray(used)[:, None], np.int8(corpus), np.int8(-1)).astype(np.int8)
    return Rows(start=start, corpus=ids.reshape(len(packed), length), **arrays)


def _table(
    pieces: Sequence[Piece],
    order: np.ndarray,
    row_of: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    rows: int,
) -> PieceTable:
    ordered = [pieces[piece] for piece in order.tolist()]
    counts = np.fromiter((len(piece.spans) for piece in ordered), np.int64, len(ordered))
    spans = [span for piece in ordered for span in piece.spans]
    document = np.fromiter((span.document for span in spans), np.int64, len(spans))
    start = np.fromiter((span.start for span in spans), np.int64, len(spans))
    stop = np.fromiter((span.stop for span in spans), np.int64, len(spans))
    objective = np.fromiter((piece.objective for piece in ordered), np.int64, len(ordered))
    cell = np.repeat(row_of * len(OBJECTIVES) + objective, counts)
    tokens = np.bincount(cell, stop - start, minlength=rows * len(OBJECTIVES)).astype(np.int64)
    return PieceTable(
        row=row_of,
        offset=offsets,
        length=sizes,
        objective=objective,
        spans=np.concatenate([[0], np.cumsum(counts)]),
        document=document,
        start=start,
        stop=stop,
        tokens=tokens.reshape(rows, len(OBJECTIVES)),
    )
