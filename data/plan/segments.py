"""The plan's history, unfolded for use: per segment its mixture, its shares, and what makes an open block
out of date (the remainder rule of DESIGN §2).

A block is dressed under the plan of the row at which it was dressed. It is dressed anew only where T, the set
of objectives or their settings, or the quarantine of one of its documents is another now, or where a weight
has moved by more than 0.1: never for B, weights of corpora, coefficients or other corpora.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from data.plan.corpus_mix import Shares
from data.plan.plan import CorpusPlan, History, Plan
from objectives.mixture import Mixture

MOVED = 0.1
"""An objective's share may move by this much before an open block is dressed anew."""
_FIRST_CHUNK, _LAST_CHUNK = 1 << 10, 1 << 16


class Regime:
    """One segment: rows `row` … `end` (exclusive; None: for ever) under `plan`."""

    def __init__(self, row: int, end: int | None, plan: Plan) -> None:
        self.row, self.end, self.plan = row, end, plan
        self.mixture = Mixture.parse(plan.objectives)
        self.shares = Shares(plan.lanes, [corpus.weight for corpus in plan.corpora])
        self.moves = any(len(entry.weight.points) > 1 for entry in self.mixture.entries)
        self._quarantined = {
            corpus.name: frozenset(sample for name, sample in plan.quarantine if name == corpus.name)
            for corpus in plan.corpora
        }

    def quarantined(self, corpus: str) -> frozenset[str]:
        """The sample keys of a corpus that are not to be used."""
        return self._quarantined.get(corpus, frozenset())

    @cached_property
    def shape(self) -> tuple[int, dict]:
        """T and the objectives with their settings, without weights and coefficients."""
        described = self.mixture.describe()
        kept = {
            name: {key: value for key, value in settings.items() if key not in ("weight", "coefficient")}
            for name, settings in described.items()
        }
        return self.plan.length, kept

    def outdates(self, row: int, dressed: "Regime", dressed_at: int) -> bool:
        """Whether rows dressed under `dressed` at row `dressed_at` must be dressed anew at `row`, whatever
        documents they hold."""
        if dressed is not self and self.shape != dressed.shape:
            return True
        if dressed is self and not self.moves:
            return False
        now, then = self.mixture.weights(row), dressed.mixture.weights(dressed_at)
        return bool(np.abs(now - then).max() > MOVED)


class Regimes:
    """All segments of a history."""

    def __init__(self, history: History) -> None:
        self.history = history
        rows = [row for row, _ in history.segments]
        self._rows = rows
        self._all = [Regime(row, history.end_of(row), plan) for row, plan in history.segments]

    @property
    def last(self) -> Regime:
        """The newest segment."""
        return self._all[-1]

    def at(self, row: int) -> Regime:
        """The segment of a global row."""
        return self._all[bisect_right(self._rows, row) - 1]

    def corpora_from(self, row: int) -> list[str]:
        """The names of the corpora that rows from `row` on draw from."""
        plans = [regime.plan for regime in self._all if regime.end is None or regime.end > row]
        return list(dict.fromkeys(c.name for plan in plans for c in plan.corpora if c.weight > 0))

    def draws(
        self, corpus: CorpusPlan, stream: int, first: int, end: int | None = None
    ) -> Iterator[np.ndarray]:
        """The global rows from `first` on (below `end`) that draw from a stream, in runs of int64."""
        row = first + (stream - first) % corpus.streams
        chunk = _FIRST_CHUNK
        while end is None or row < end:
            regime = self.at(row)
            stops = [stop for stop in (end, regime.end) if stop is not None]
            weight = regime.shares.weights[corpus.id] if corpus.id < len(regime.shares.weights) else 0.0
            if weight == 0.0:
                if regime.end is None:
                    return
                row = regime.end + (stream - regime.end) % corpus.streams
                continue
            rows = np.arange(row, min([row + chunk * corpus.streams, *stops]), corpus.streams)
            yield rows[regime.shares.corpora_of(rows) == corpus.id]
            row = int(rows[-1]) + corpus.streams
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
