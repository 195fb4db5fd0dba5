"""Steps as arithmetic over the plan's history: which rows a step has, and which step has a row.

A step takes the next B rows, B being that of the row at which it begins; it never crosses into the next
segment of the history, for edits are made between steps. The first step of a run is 1, its first row is 0.
Between two changes of B the steps are equally long, so both questions cost a walk over the changes, not over
the steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from data.plan.batch_rows import BatchRows, rows_at
from data.plan.plan import History


class Paced(Protocol):
    """What of a plan says how fast a run reads."""

    @property
    def length(self) -> int:
        """T."""

    @property
    def batch_rows(self) -> BatchRows:
        """B, or its schedule."""


@dataclass(frozen=True)
class EqualSteps:
    """Steps of one length, one behind the other. first: the number of the first; row: its first row; rows: B;
    end: where they end (None: never); length: T. The last may be cut short by the next segment."""

    first: int
    row: int
    rows: int
    end: int | None
    length: int


def step_length(history: History, row: int) -> int:
    """Rows of the step that begins at a global row."""
    rows = history.at(row).rows_at(row)
    end = history.end_of(row)
    return rows if end is None else min(rows, end - row)


def rows_of_step(history: History, step: int) -> tuple[int, int]:
    """(first global row, number of rows) of a step; the first step is 1."""
    for equal in equal_steps(history.segments):
        if equal.end is None or step < equal.first + -(-(equal.end - equal.row) // equal.rows):
            first = equal.row + (step - equal.first) * equal.rows
            return first, step_length(history, first)
    raise AssertionError("the last run has no end")


def step_of_row(history: History, row: int) -> int:
    """The step that a global row is part of; the first is 1."""
    for equal in equal_steps(history.segments):
        if equal.end is None or row < equal.end:
            return equal.first + (row - equal.row) // equal.rows
    raise AssertionError("the last run has no end")


def equal_steps(segments: Sequence[tuple[int, Paced]]) -> Iterator[EqualSteps]:
    """All steps of a run, in order; segments: as History has them. The last step of each may be cut short by
    the next segment, and may reach beyond the row at which B changes within one."""
    step = 1
    for number, (first, plan) in enumerate(segments):
        last = number + 1 == len(segments)
        segment_end = None if last else segments[number + 1][0]
        points = [] if isinstance(plan.batch_rows, int) else [row for row, _ in plan.batch_rows]
        row = first
        while segment_end is None or row < segment_end:
            rows = rows_at(plan.batch_rows, row)
            change = next((point for point in points if point > row), None)
            end = None if change is None else row + -(-(change - row) // rows) * rows
            if segment_end is not None:
                end = segment_end if end is None else min(end, segment_end)
            yield EqualSteps(step, row, rows, end, plan.length)
            if end is None:
                return
            step += -(-(end - row) // rows)
            row = end
