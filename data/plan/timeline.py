"""Steps, rows and positions of a run, each as a function of the others: what tokens come to in steps.

    steps       1       2       3   4   5   6   7          B halves after step 2
    rows       ├───────┼───────┼───┼───┼───┼───┼─ …
    positions  0      B·T    2·B·T                         every row is T positions, padding too

It is arithmetic over the plan's history, so it is known before anything is read, and the same on every rank.
Edits of B and T bend the line from their row on: what was read before them counts as it was.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from data.plan.batch_rows import BatchRows
from data.plan.steps import Paced, equal_steps


@dataclass(frozen=True)
class RowRate:
    """Rows of `length` positions, `batch_rows` of them a step."""

    length: int
    batch_rows: BatchRows


class Timeline:
    """Of a run whose plans are these: (first global row, what holds from there on)."""

    def __init__(self, segments: Sequence[tuple[int, Paced]]) -> None:
        self._equal = [*equal_steps(segments)]
        self._first = [equal.first for equal in self._equal]
        read, self._before = 0, []
        for equal in self._equal:
            self._before.append(read)
            if equal.end is not None:
                read += (equal.end - equal.row) * equal.length
        self._ends = self._before[1:]
        """Positions read where each but the last ends."""

    @cached_property
    def unit(self) -> int:
        """Positions of which every `positions_after` is a multiple: B·T, where both stay."""
        whole = [(equal.end - equal.row) * equal.length for equal in self._equal if equal.end is not None]
        return gcd(*whole, *(equal.rows * equal.length for equal in self._equal))

    def positions_after(self, step: int) -> int:
        """Read when `step` is made; the first is 1."""
        if step < 1:
            return 0
        at = bisect_right(self._first, step) - 1
        equal = self._equal[at]
        row = equal.row + (step - equal.first + 1) * equal.rows
        if equal.end is not None:
            row = min(row, equal.end)
        return self._before[at] + (row - equal.row) * equal.length

    def steps_for(self, positions: int) -> int:
        """The first step after which so many are read; 0 for none."""
        if positions < 1:
            return 0
        at = bisect_left(self._ends, positions)
        equal = self._equal[at]
        return equal.first - 1 + -(-(positions - self._before[at]) // (equal.rows * equal.length))

    def row_for(self, positions: int) -> int:
        """The first global row before which so many are read."""
        at = bisect_left(self._ends, positions)
        equal = self._equal[at]
        return equal.row + -(-(positions - self._before[at]) // equal.length)
