"""The bound on padding: where whole segments would leave too much of a block's rows empty, some are cut.

    best fit          ######··  ######··  ######··  ######··     T = 8: a quarter is padding
    at most 3 rows    ######··  ######··  ######··               the row beyond is dissolved, what stood in it
                      ######aa  ######aa  ######aa               poured into the rooms of the others

At most `share` of a block's positions and one row more may be padding; that says how many rows there may be.
What stood in the rows beyond, those opened last, goes to the tightest room that holds it, the longest first;
where none does, a part of it fills the largest room and the rest is placed the same way. So no more is cut
than is poured, and where best fit keeps the bound by itself nothing is. (Where the last rows hold only crumbs
that no room takes, the first ones are dissolved.) A part is a segment like any other: its objective makes
an Example of it, marks and all, by random numbers that are keyed by its own first token.

Parts may make the text longer, by their marks, or shorter, where an Example came out shorter than `fit` had
to promise; so the bound is looked at again, a few times. What cannot be cut (Objective.least_room) is packed
first, and rows that hold such are never dissolved.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from data.stream.packing import best_fit
from objectives.example_builder import ExampleBuilder
from objectives.segments import Segments

_LEAST = 8
"""Tokens of a part, at least: where so much is little beside the bound, and in the first pass."""
_PASSES = 4


@dataclass(frozen=True, slots=True)
class FilledRows:
    """Segments, the rows that they fill (lists of their numbers; of a segment that was cut the parts stand in
    them), and which of them are parts that are not the last of their segment: as many as there are cuts."""

    segments: Segments
    rows: list[list[int]]
    cut: frozenset[int] = frozenset()


def most_rows(positions: int, length: int, share: float) -> int:
    """The most rows of T = length that so many positions of segments may lie in: of the rows' positions
    `share`, from 0 to below 1, and those of one row more are padding."""
    return max(-(-positions // length), int((positions + length) / (length * (1 - share))))


def fill_rows(builder: ExampleBuilder, share: float | None) -> FilledRows:
    """The segments of a block in rows, of which at most `share` and one row is padding as far as the
    objectives let segments be cut; None: none is cut. A pure function of the builder's arguments."""
    length, segments = builder.length, builder.segments()
    filled = FilledRows(segments, best_fit(segments.lengths, length))
    if share is None or not _excess(filled, length, share):
        return filled
    stiff = np.isin(segments.objectives, [o for o, room in builder.least_rooms.items() if room is None])
    if stiff.any():
        filled = FilledRows(segments, best_fit(segments.lengths, length, stiff))
    least, first = max(1, min(_LEAST, int(share * length / 2))), False
    for _ in range(_PASSES):
        if not (excess := _excess(filled, length, share)):
            break
        poured = _Pouring(builder, filled, excess, least, first).poured()
        if len(poured.rows) < len(filled.rows):
            filled = poured
        elif first:
            break
        else:
            first = True  # what was to be poured were crumbs too large for the rooms
        least = 1
    return filled


def _excess(filled: FilledRows, length: int, share: float) -> int:
    """How many rows there are beyond those that the bound allows; 0 where it is kept."""
    placed = np.fromiter(chain.from_iterable(filled.rows), np.int64)
    positions = int(filled.segments.lengths[placed].sum())
    return max(0, len(filled.rows) - most_rows(positions, length, share))


class _Piece(NamedTuple):
    """What is to be placed, the longest first. positions: that it takes, at most; number: of the segment that
    it is or is a part of; tokens [start, stop) of a document; whole: it is that segment."""

    positions: int
    number: int
    document: int
    start: int
    stop: int
    whole: bool


class _Rooms:
    """Rows by the room that they have left: the tightest that holds so much, and the largest."""

    def __init__(self, rooms: Iterable[int]) -> None:
        self._bits = 0
        self._rows: dict[int, list[int]] = {}
        for row, room in enumerate(rooms):
            self.put(row, room)

    def put(self, row: int, room: int) -> None:
        """A row has that much room."""
        if room:
            self._rows.setdefault(room, []).append(row)
            self._bits |= 1 << room

    def tightest(self, positions: int) -> int:
        """The least room of so many positions; 0: there is none."""
        fitting = self._bits >> positions
        return positions + (fitting & -fitting).bit_length() - 1 if fitting else 0

    @property
    def largest(self) -> int:
        """0: no row has any."""
        return max(0, self._bits.bit_length() - 1)

    def take(self, room: int) -> int:
        """A row that has exactly that room; until it is put back it has none."""
        rows = self._rows[room]
        row = rows.pop()
        if not rows:
            self._bits ^= 1 << room
        return row


class _Pouring:
    """One pass: dissolves rows and pours what stood in them into the rooms of the others."""

    def __init__(
        self, builder: ExampleBuilder, filled: FilledRows, excess: int, least: int, first: bool
    ) -> None:
        """excess: how many rows to dissolve, the last or the first; least: tokens of a part."""
        self._builder, self._filled, self._least = builder, filled, least
        segments, texts = filled.segments, builder.texts
        self._documents = list(zip(texts.starts.tolist(), texts.sizes.tolist(), texts.closes.tolist()))
        self._objectives = [builder.objectives[builder.index[o]] for o in segments.objectives.tolist()]
        loose = list(range(len(filled.rows)))
        if stiff := {number for number, room in builder.least_rooms.items() if room is None}:
            holding = [any(self._objectives[i].id in stiff for i in row) for row in filled.rows]
            loose = np.flatnonzero(~np.array(holding)).tolist()
        gone = set(loose[:excess] if first else loose[-excess:])
        lengths: list[int] = segments.lengths.tolist()
        self._rows = [list(row) for number, row in enumerate(filled.rows) if number not in gone]
        self._rooms = _Rooms(builder.length - sum(lengths[i] for i in row) for row in self._rows)
        self._parts: list[tuple[_Piece, int, bool]] = []
        self._waiting: list[tuple[int, _Piece]] = []
        for number in sorted(gone):
            for segment in filled.rows[number]:  # of one that may be cut the text is one run
                document, start, stop = segments.spans[segments.span_ends[segment]].tolist()
                self._wait(_Piece(lengths[segment], segment, document, start, stop, True))

    def poured(self) -> FilledRows:
        """The rows after the pass."""
        while self._waiting:
            _, piece = heapq.heappop(self._waiting)
            if room := self._rooms.tightest(piece.positions):
                self._place(piece, room)
            elif not self._cut(piece, self._rooms.largest):
                self._rows.append([])
                self._rooms.put(len(self._rows) - 1, self._builder.length)
                self._wait(piece)
        return self._made()

    def _wait(self, piece: _Piece) -> None:
        heapq.heappush(self._waiting, (-piece.positions, piece))

    def _place(self, piece: _Piece, room: int) -> None:
        row = self._rooms.take(room)
        self._rooms.put(row, room - piece.positions)
        if piece.whole:
            self._rows[row].append(piece.number)
        else:
            self._parts.append((piece, row, piece.number in self._filled.cut))

    def _cut(self, piece: _Piece, room: int) -> bool:
        """Fills a room with the first part of a piece and keeps the rest for later; False where none of it
        can."""
        tokens, used = piece.stop - piece.start, room
        least_room = self._builder.least_rooms[self._objectives[piece.number].id] or 1
        taken = tokens
        while used >= least_room:
            taken = self._fit(piece.number, piece.document, piece.start, piece.stop, used)
            if tokens - taken >= self._least:
                break
            used -= self._least - (tokens - taken)
        if used < least_room or taken < self._least:
            return False
        middle = piece.start + taken
        row = self._rooms.take(room)
        self._rooms.put(row, room - used)
        part = _Piece(used, piece.number, piece.document, piece.start, middle, False)
        self._parts.append((part, row, True))
        rest = tokens - taken
        positions = max(rest, least_room)  # the fewest that are enough for it, whatever is drawn
        while (fitting := self._fit(piece.number, piece.document, middle, piece.stop, positions)) < rest:
            positions += rest - fitting
        positions = min(positions, self._builder.length)
        self._wait(_Piece(positions, piece.number, piece.document, middle, piece.stop, False))
        return True

    def _fit(self, number: int, document: int, start: int, stop: int, room: int) -> int:
        """Of the tokens [start, stop) of a document, how many a segment of the objective of another, by its
        number, takes from their start in a room."""
        begin, size, closes = self._documents[document]
        tokens = self._builder.texts.around[begin + start : begin + stop]
        last = closes and stop == size
        return self._objectives[number].fit(tokens, room, self._builder.tokenizer, start == 0, last)

    def _made(self) -> FilledRows:
        """The rows with the Examples of the parts, those of one objective behind those of another."""
        by_objective: dict[int, list[tuple[_Piece, int, bool]]] = {}
        for part in self._parts:
            by_objective.setdefault(self._objectives[part[0].number].id, []).append(part)
        parts = {
            objective: [(piece.document, piece.start, piece.stop) for piece, _, _ in own]
            for objective, own in by_objective.items()
        }
        segments = self._builder.with_parts(self._filled.segments, parts)
        cut = set(self._filled.cut)
        placed = chain.from_iterable(by_objective.values())
        for number, (_, row, goes_on) in enumerate(placed, len(self._filled.segments)):
            self._rows[row].append(number)
            if goes_on:
                cut.add(number)
        return FilledRows(segments, self._rows, frozenset(cut))
