"""The plan's history, unfolded for use: per segment its mixture, its shares, and what makes an open block
out of date (the remainder rule: docs/design/stream.md#editing-the-plan).

A block is built under the plan of the row at which it was built. It is built anew only where T, the set
of objectives or their settings, or the quarantine of one of its documents is another now, or where a weight
has moved by more than 0.1: never for B, weights of corpora, coefficients or other corpora.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from data.plan.corpus_mix import CorpusMix
from data.plan.plan import CorpusPlan, History, Plan, Skip
from objectives.objective import Objective

MOVED = 0.1
"""An objective's share may move by this much before an open block is built anew."""
_FIRST_CHUNK, _LAST_CHUNK = 1 << 10, 1 << 16


class PlanSegment:
    """One segment of the history: rows `row` … `end` (exclusive; None: for ever) follow `plan`."""

    def __init__(self, row: int, end: int | None, plan: Plan) -> None:
        self.row, self.end, self.plan = row, end, plan
        self.mixture = plan.mixture
        self.corpus_mix = CorpusMix(plan.lanes, [corpus.weight for corpus in plan.corpora])
        self.moves = any(len(entry.weight.points) > 1 for entry in self.mixture.entries)
        self._quarantined = {
            corpus.name: frozenset(sample for name, sample in plan.quarantine if name == corpus.name)
            for corpus in plan.corpora
        }

    def quarantined(self, corpus: str) -> frozenset[str]:
        """The sample keys of a corpus that are not to be used."""
        return self._quarantined.get(corpus, frozenset())

    @cached_property
    def shape(self) -> tuple[int, tuple[Objective, ...]]:
        """T and the objectives with their settings, without weights and coefficients."""
        return self.plan.length, tuple(entry.objective for entry in self.mixture.entries)

    def next_row(self, corpus: int, row: int) -> int | None:
        """A row, `row` or behind it, before which none comes from a corpus (its id); None where none ever
        does."""
        return self.corpus_mix.next_row(corpus, row) if corpus < len(self.plan.corpora) else None

    def outdates(self, row: int, built: "PlanSegment", built_at: int) -> bool:
        """Whether rows built under `built` at row `built_at` must be built anew at `row`, whatever
        documents they hold."""
        if built is not self and self.shape != built.shape:
            return True
        if built is self and not self.moves:
            return False
        now, then = self.mixture.weights(row), built.mixture.weights(built_at)
        return bool(np.abs(now - then).max() > MOVED)


class PlanSegments:
    """All segments of a history, and the one place where a loader's skips are added to it."""

    def __init__(self, history: History) -> None:
        self.history = history
        """That in force: what a batch carries, and what blocks are opened by. It only ever gains skips."""
        rows = [row for row, _ in history.segments]
        self._rows = rows
        self._all = [PlanSegment(row, history.end_of(row), plan) for row, plan in history.segments]

    @property
    def last(self) -> PlanSegment:
        """The newest segment."""
        return self._all[-1]

    def skip(self, skip: Skip) -> None:
        """From now on the history has that skip. To be called once it is on the record, by the one thread
        that draws; others may read meanwhile."""
        self.history = self.history.with_skip(skip)

    def at(self, row: int) -> PlanSegment:
        """The segment of a global row."""
        return self._all[bisect_right(self._rows, row) - 1]

    def corpora_from(self, row: int) -> list[str]:
        """The names of the corpora that rows from `row` on may draw from."""
        plans = [
            plan_segment.plan
            for plan_segment in self._all
            if plan_segment.end is None or plan_segment.end > row
        ]
        return list(dict.fromkeys(c.name for plan in plans for c in plan.corpora if c.weight.most > 0))

    def rows_of(self, first: int, end: int) -> dict[str, int]:
        """Corpus → how many of the global rows first … end − 1 draw from it."""
        return self._of_corpora(first, end, lambda mix, a, b: mix.rows_before(b) - mix.rows_before(a))

    def asked_of(self, first: int, end: int) -> dict[str, float]:
        """Corpus → how many of them its weights ask for."""
        return self._of_corpora(first, end, lambda mix, a, b: mix.asked.rows(b) - mix.asked.rows(a))

    def _of_corpora(
        self, first: int, end: int, count: Callable[[CorpusMix, int, int], np.ndarray]
    ) -> dict[str, Any]:
        """Corpus → what `count` finds of it, added up over the segments of these rows."""
        total: dict[str, Any] = {}
        while first < end:
            plan_segment = self.at(first)
            stop = end if plan_segment.end is None else min(end, plan_segment.end)
            counts = count(plan_segment.corpus_mix, first, stop).tolist()
            for corpus, more in zip(plan_segment.plan.corpora, counts):
                total[corpus.name] = total.get(corpus.name, 0) + more
            first = stop
        return total

    def draws(
        self, corpus: CorpusPlan, stream: int, first: int, end: int | None = None
    ) -> Iterator[np.ndarray]:
        """The global rows from `first` on (below `end`) that draw from a stream, in runs of int64."""

        def of_stream(row: int) -> int:
            return row + (stream - row) % corpus.streams

        row, chunk, jump = of_stream(first), _FIRST_CHUNK, False
        while end is None or row < end:
            plan_segment = self.at(row)
            stop = min((row for row in (end, plan_segment.end) if row is not None), default=None)
            if jump:  # over what may be long: nothing of the corpus is in it
                ahead = plan_segment.next_row(corpus.id, row)
                if ahead is None and stop is None:
                    return
                if ahead is None or (stop is not None and ahead >= stop):
                    assert stop is not None
                    row, jump = of_stream(stop), False
                    continue
                row = of_stream(ahead)
            last = row + chunk * corpus.streams
            rows = np.arange(row, last if stop is None else min(last, stop), corpus.streams)
            if len(rows):
                found = rows[plan_segment.corpus_mix.corpora_of(rows) == corpus.id]
                yield found
                row, jump = int(rows[-1]) + corpus.streams, not len(found)
            chunk = min(2 * chunk, _LAST_CHUNK)

    def draw_after(self, corpus: CorpusPlan, stream: int, first: int, count: int) -> int | None:
        """The row of the draw number `count` (from 0) at or after `first`; None where it never comes."""
        for rows in self.draws(corpus, stream, first):
            if count < len(rows):
                return int(rows[count])
            count -= len(rows)
        return None

    def count_draws(self, corpus: CorpusPlan, stream: int, first: int, end: int) -> int:
        """How many of the rows [first, end) draw from a stream."""
        return sum(len(rows) for rows in self.draws(corpus, stream, first, end))
