"""What share of all rows each corpus has given so far, and what it was asked for: exact, by the plan's
arithmetic.

What came before the attempt is worked out once; from then on each step adds the rows that it had.
"""

import numpy as np

from data.plan.plan import History
from data.plan.segments import PlanSegments


class CorpusShares:
    """From the row at which an attempt goes on; the newest plan holds from there on."""

    def __init__(self, history: History, row: int) -> None:
        names = [corpus.name for corpus in history.newest.corpora]
        self._segments, self._names = PlanSegments(history), names
        self._row = row
        before, asked = self._segments.rows_of(0, row), self._segments.asked_of(0, row)
        self._rows = np.array([before.get(name, 0) for name in names], np.float64)
        self._asked = np.array([asked.get(name, 0) for name in names])

    def after(self, rows: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(achieved, asked), float64 [corpora] each, of the rows before `end`. rows: float64 [corpora], of
        the step that ends there."""
        self._rows = self._rows + rows
        asked = self._segments.asked_of(self._row, end)
        return self._rows / end, (self._asked + [asked[name] for name in self._names]) / end
