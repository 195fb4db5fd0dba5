"""The bound on padding: where whole segments would leave too much of a block's rows empty, some are cut.

    best fit          ######··  ######··  ######··  ######··     T = 8: a quarter is padding
    at most 3 rows    ######··  ######··  ######··               the row beyond is dissolved, what stood in it
                      ######aa  ######aa  ######aa               poured into the rooms of the others

At most `share` of a block's positions and one row more may be padding; that says how many rows there may be.
What stood in the rows beyond goes, the longest first, to the tightest room that holds it; where none does, a
part of it fills the largest room and the rest is placed the same way. So no more is cut than is poured, and
where best fit keeps the bound by itself nothing is. A part is a segment like any other: its objective makes
an Example of it, marks and all, by random numbers that are keyed by its own first token.

Parts may make the text longer, by their marks, or shorter, where an Example came out shorter than `fit` had
to promise; so the bound is looked at again, a few times. What cannot be cut (Objective.least_room) is packed
first, and rows that hold such are never dissolved.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    least = max(1, min(_LEAST, int(share * length / 2)))
    for _ in range(_PASSES):
        excess = _excess(filled, length, share)
        poured = _Pouring(builder, filled, excess, least).poured() if excess else filled
        if len(poured.rows) >= len(filled.rows):
            break
        filled, least = poured, 1
    return filled


def _excess(filled: FilledRows, length: int, share: float) -> int:
    """How many rows there are beyond those that the bound allows; 0 where it is kept."""
    positions = int(sum(filled.segments.lengths[row].sum() for row in filled.rows))
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

    def __init__(self, builder: ExampleBuilder, filled: FilledRows, excess: int, least: int) -> None:
        """excess: how many rows to dissolve; least: tokens of a part."""
        self._builder, self._filled, self._least = builder, filled, least
        segments = filled.segments
        self._objectives: list[int] = segments.objectives.tolist()
        self._lengths: list[int] = segments.lengths.tolist()
        loose = [row for row in range(len(filled.rows)) if not self._holds_stiff(filled.rows[row])]
        gone = set(loose[-excess:])
        self._rows = [list(row) for number, row in enumerate(filled.rows) if number not in gone]
        self._waiting: list[tuple[int, _Piece]] = []
        for row in sorted(gone):
            for segment in filled.rows[row]:
                self._wait(self._piece(segment))
        self._rooms = _Rooms(builder.length - sum(self._lengths[i] for i in row) for row in self._rows)
        self._parts: list[tuple[_Piece, int, bool]] = []

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

    def _holds_stiff(self, row: Sequence[int]) -> bool:
        """A segment that may not be cut stands in a row."""
        return any(self._builder.least_rooms[self._objectives[i]] is None for i in row)

    def _piece(self, segment: int) -> _Piece:
        """A segment; of one that may be cut the text is one run."""
        segments = self._filled.segments
        document, start, stop = segments.spans[segments.span_ends[segment]].tolist()
        return _Piece(self._lengths[segment], segment, document, start, stop, True)

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
        taken = self._taken(piece, room)
        if not taken:
            return False
        middle = piece.start + taken
        part = self._part(piece, piece.start, middle)
        row = self._rooms.take(room)
        self._rooms.put(row, max(0, room - part.positions))
        self._parts.append((part, row, True))
        self._wait(self._part(piece, middle, piece.stop))
        return True

    def _taken(self, piece: _Piece, room: int) -> int:
        """Tokens of a piece that go into a room that does not hold all of it; 0: so few that none do."""
        objective, tokens = self._objectives[piece.number], piece.stop - piece.start
        least_room = self._builder.least_rooms[objective]
        while least_room and room >= least_room:
            taken = self._builder.fits(objective, piece.document, piece.start, piece.stop, room)
            if taken < self._least:
                return 0
            if tokens - taken >= self._least:
                return taken
            room -= self._least - (tokens - taken)
        return 0

    def _part(self, piece: _Piece, start: int, stop: int) -> _Piece:
        """A part of a piece, and the fewest positions that are enough for it whatever is drawn."""
        objective, tokens = self._objectives[piece.number], stop - start
        positions = max(tokens, self._builder.least_rooms[objective] or 1)
        while (missing := tokens - self._builder.fits(objective, piece.document, start, stop, positions)) > 0:
            positions += missing
        return _Piece(min(positions, self._builder.length), piece.number, piece.document, start, stop, False)

    def _made(self) -> FilledRows:
        """The rows with the Examples of the parts, those of one objective behind those of another."""
        by_objective: dict[int, list[tuple[_Piece, int, bool]]] = {}
        for part in self._parts:
            by_objective.setdefault(self._objectives[part[0].number], []).append(part)
        parts = {
            objective: [(piece.document, piece.start, piece.stop) for piece, _, _ in own]
            for objective, own in by_objective.items()
        }
        segments = self._builder.with_parts(self._filled.segments, parts)
        cut = set(self._filled.cut)
        placed = (part for own in by_objective.values() for part in own)
        for number, (_, row, goes_on) in enumerate(placed, len(self._filled.segments)):
            self._rows[row].append(number)
            if goes_on:
                cut.add(number)
        return FilledRows(segments, self._rows, frozenset(cut))
