"""Steps as arithmetic over the plan's history: which rows a step has, and which step has a row.

A step takes the next B rows, B being that of the row at which it begins; it never crosses into the next
segment of the history, for edits are made between steps. The first step of a run is 1, its first row is 0.
Between two changes of B the steps are equally long, so both questions cost a walk over the changes, not over
the steps.
"""

from collections.abc import Iterator

from data.plan.plan import History


def step_length(history: History, row: int) -> int:
    """Rows of the step that begins at a global row."""
    rows = history.at(row).rows_at(row)
    end = history.end_of(row)
    return rows if end is None else min(rows, end - row)


def rows_of_step(history: History, step: int) -> tuple[int, int]:
    """(first global row, number of rows) of a step; the first step is 1."""
    for first_step, row, rows, end in _runs(history):
        if end is None or step < first_step + -(-(end - row) // rows):
            first = row + (step - first_step) * rows
            return first, step_length(history, first)
    raise AssertionError("the last run has no end")


def step_of_row(history: History, row: int) -> int:
    """The step that a global row is part of; the first is 1."""
    for first_step, start, rows, end in _runs(history):
        if end is None or row < end:
            return first_step + (row - start) // rows
    raise AssertionError("the last run has no end")


def _runs(history: History) -> Iterator[tuple[int, int, int, int | None]]:
    """(number of the first step, its first row, B, where the run of equal steps ends): a run's last step may
    be cut short by the next segment, and may reach beyond the row at which B changes within one."""
    step = 1
    for number, (first, plan) in enumerate(history.segments):
        last = number + 1 == len(history.segments)
        segment_end = None if last else history.segments[number + 1][0]
        points = [] if isinstance(plan.batch_rows, int) else [row for row, _ in plan.batch_rows]
        row = first
        while segment_end is None or row < segment_end:
            rows = plan.rows_at(row)
            change = next((point for point in points if point > row), None)
            end = None if change is None else row + -(-(change - row) // rows) * rows
            if segment_end is not None:
                end = segment_end if end is None else min(end, segment_end)
            yield step, row, rows, end
            if end is None:
                return
            step += -(-(end - row) // rows)
            row = end
