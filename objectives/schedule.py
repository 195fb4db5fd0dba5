"""A number that moves with the global row: constant, or piecewise linear through given points.

In a config the points may stand at tokens instead of rows: [[1B tokens, 2], …]. Which rows these are depends
on T, so a schedule in tokens has no value at a row until `in_rows` has made one in rows of it; plans hold
none.
"""

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from objectives.quantity import Tokens, steps_or_tokens

MOST = 1e9
"""Of a weight, a corpus's too, and of a coefficient: sums of weights, and losses times a coefficient, must be
numbers in float32."""


@dataclass(frozen=True)
class Schedule:
    """points: (place, value) in ascending order of places, which are global rows, or where `in_tokens`
    positions; before the first and after the last the value stays. Values are from 0 to MOST."""

    points: tuple[tuple[int, float], ...]
    in_tokens: bool = False

    @classmethod
    def parse(cls, value: Any) -> "Schedule":
        """From a number, or a list of [row, value] or ['N tokens', value]. ValueError in one line."""
        points = [[0, value]] if _is_number(value) else value
        if not isinstance(points, list | tuple) or not points:
            raise ValueError(f"expected a number or a list of [row, value], got {value!r}")
        for point in points:
            if not isinstance(point, list | tuple) or len(point) != 2 or not _is_number(point[1]):
                raise ValueError(f"expected [row, value], got {point!r}")
            if not 0 <= point[1] <= MOST:
                raise ValueError(f"expected a number from 0 to {MOST:g}, got {point[1]}")
        places, in_tokens = parse_places([place for place, _ in points])
        if len(points) == 1:
            places, in_tokens = [0], False
        return cls(tuple((place, float(number)) for place, (_, number) in zip(places, points)), in_tokens)

    def describe(self) -> float | list[list[Any]]:
        """A plain value: parse gives an equal schedule."""
        if len(self.points) == 1:
            return self.points[0][1]
        return [[describe_place(place, self.in_tokens), value] for place, value in self.points]

    def in_rows(self, row_for: Callable[[int], int]) -> "Schedule":
        """The same in rows. row_for: positions → the first row before which so many are read."""
        if not self.in_tokens:
            return self
        # Of points within one row the last stands.
        return Schedule(tuple({row_for(place): (row_for(place), v) for place, v in self.points}.values()))

    @property
    def most(self) -> float:
        """The largest value that it ever has."""
        return max(value for _, value in self.points)

    def at(self, row: int) -> float:
        """The value at a global row."""
        assert not self.in_tokens, "in_rows first: which row a token stands in is for the run to say"
        after = bisect.bisect_right(self.points, row, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (row - left) / (right - left)


def parse_places(places: list[Any]) -> tuple[list[int], bool]:
    """Ascending places of a schedule, and whether they are tokens and no rows. ValueError in one line."""
    found = []
    for place in places:
        if not isinstance(place, str) and (
            not isinstance(place, int) or isinstance(place, bool) or place < 0
        ):
            raise ValueError(f"expected a global row (a whole number from 0 on), got {place!r}")
        found.append(steps_or_tokens(place, least=0, unit="rows"))
    units = {type(place) for place in found if place != 0}  # the beginning is the same in both
    if len(units) > 1:
        raise ValueError(f"expected all places in rows or all in tokens, got {places}")
    numbers = [place.count if isinstance(place, Tokens) else place for place in found]
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        raise ValueError(f"expected rows in ascending order, got {places}")
    return numbers, Tokens in units


def describe_place(place: int, in_tokens: bool) -> int | str:
    """As a config has it."""
    return str(Tokens(place)) if in_tokens and place else place


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
