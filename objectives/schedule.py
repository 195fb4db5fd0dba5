"""A number that moves with the global row: constant, or piecewise linear through given points."""

import bisect
import itertools
from dataclasses import dataclass
from typing import Any

MOST = 1e9
"""Of a weight, a corpus's too, and of a coefficient: sums of weights, and losses times a coefficient, must be
numbers in float32."""


@dataclass(frozen=True)
class Schedule:
    """points: (global row, value) in ascending order of rows; before the first and after the last the value
    stays. Values are from 0 to MOST."""

    points: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, value: Any) -> "Schedule":
        """From a number, or a list of [row, value]. ValueError in one line."""
        points = [[0, value]] if _is_number(value) else value
        if not isinstance(points, list | tuple) or not points:
            raise ValueError(f"expected a number or a list of [row, value], got {value!r}")
        for point in points:
            if not isinstance(point, list | tuple) or len(point) != 2 or not _is_number(point[1]):
                raise ValueError(f"expected [row, value], got {point!r}")
            if not isinstance(point[0], int) or isinstance(point[0], bool) or point[0] < 0:
                raise ValueError(f"expected a global row (a whole number from 0 on), got {point[0]!r}")
            if not 0 <= point[1] <= MOST:
                raise ValueError(f"expected a number from 0 to {MOST:g}, got {point[1]}")
        rows = [row for row, _ in points]
        if any(later <= earlier for earlier, later in itertools.pairwise(rows)):
            raise ValueError(f"expected rows in ascending order, got {rows}")
        if len(points) == 1:
            points = [[0, points[0][1]]]
        return cls(tuple((int(row), float(number)) for row, number in points))

    def describe(self) -> float | list[list[float]]:
        """A plain value: parse gives an equal schedule."""
        return self.points[0][1] if len(self.points) == 1 else [[row, value] for row, value in self.points]

    @property
    def most(self) -> float:
        """The largest value that it ever has."""
        return max(value for _, value in self.points)

    def at(self, row: int) -> float:
        """The value at a global row."""
        after = bisect.bisect_right(self.points, row, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (row - left) / (right - left)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
