"""B, the rows of a step: a number, or a schedule by the row at which a step begins."""

from bisect import bisect_right

BatchRows = int | tuple[tuple[int, int], ...]
"""B, or ((row, B), …): B of the steps that begin at that row or later."""


def rows_at(batch_rows: BatchRows, row: int) -> int:
    """B of a step that begins at a global row."""
    if isinstance(batch_rows, int):
        return batch_rows
    at = bisect_right(batch_rows, row, key=lambda point: point[0])
    return batch_rows[max(at - 1, 0)][1]
