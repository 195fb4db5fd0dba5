"""How many rows of each corpus lie in a round: whole numbers that follow what is asked.

A turn of L lanes is cut evenly into rounds of at most 24 rows, and these are dealt out down a tree whose
leaves are the corpora. Of the first J rows that come to a node so many go right as its right side was asked
for when the node had been asked for J (rounded); the others go left:

                 0-3            J = n of the n rows before a round
               ╱     ╲
            0-1       2-3       rows asked of a node: those of its corpora
            ╱ ╲       ╱ ╲
           0   1     2   3

Both sides never fall as J grows, whatever the weights do, so no count of a round is negative and their sum is
its length. That holds because "when it had been asked for J" is answered on the node's own clock: counting
each corpus by itself, or by the global row, would give rounds of −1 rows. Off by half a row a level.
"""

import numpy as np

from data.plan.asked_rows import ROW_BITS, AskedRows

_LONGEST = 24
"""Rows of a round, at most: weights that jump within one are off by a quarter of them until its end."""
_HALF = 1 << ROW_BITS - 1
_FOR_EVER = 1 << 50
"""More rounds than any run has."""


class RoundCounts:
    """The counts of all rounds, numbered from 0 on."""

    def __init__(self, lanes: int, asked: AskedRows, corpora: int) -> None:
        self.lanes, self.asked, self.corpora = lanes, asked, corpora
        self.a_turn = -(-lanes // _LONGEST)
        """Rounds a turn."""
        self.starts = np.arange(self.a_turn + 1) * lanes // self.a_turn
        """int64: the lanes at which the rounds of a turn begin, and L."""
        self.of_lane = np.repeat(np.arange(self.a_turn), np.diff(self.starts))
        """int64 [L]: the round of a turn in which each lane lies."""

    def row(self, number: int) -> int:
        """The first row of a round."""
        turn, part = divmod(number, self.a_turn)
        return turn * self.lanes + part * self.lanes // self.a_turn

    def round_of(self, row: int) -> int:
        """The round in which a row lies."""
        turn, lane = divmod(row, self.lanes)
        return turn * self.a_turn + int(self.of_lane[lane])

    def before(self, first: int, stop: int) -> np.ndarray:
        """int64 [corpora, stop − first + 1]: rows of each corpus before the rounds first … stop."""
        turn, part = np.divmod(np.arange(first, stop + 1, dtype=np.int64), self.a_turn)
        borders = turn * self.lanes + self.starts[part]
        asked = np.stack([self.asked.upto_all(i, borders) for i in range(self.corpora)])
        counts = np.empty_like(asked)
        nodes = [(0, self.corpora, borders)]
        while nodes:
            low, high, rows = nodes.pop()
            if high - low == 1:
                counts[low] = rows
                continue
            middle = (low + high) // 2
            right = self._right((low, middle, high), rows, asked, first)
            nodes += [(low, middle, rows - right), (middle, high, right)]
        return counts

    def of(self, corpus: int, number: int) -> int:
        """Rows of one corpus before a round."""
        low, high, rows = 0, self.corpora, self.row(number)
        while high - low > 1:
            middle = (low + high) // 2
            right = self._asked_right((low, middle, high), rows, number) + _HALF >> ROW_BITS
            low, high, rows = (middle, high, right) if corpus >= middle else (low, middle, rows - right)
        return rows

    def next(self, corpus: int, number: int) -> int | None:
        """The first round from `number` on in which a corpus has a row; None where there is none for ever."""
        if not self.asked.ever(corpus):
            return None
        before, low, step = self.of(corpus, number), number, 1
        while self.of(corpus, low + step) == before:
            low, step = low + step, 2 * step
            if step > _FOR_EVER:
                return None
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.of(corpus, middle) > before else (middle, high)
        return low

    def _right(
        self, node: tuple[int, int, int], rows: np.ndarray, asked: np.ndarray, first: int
    ) -> np.ndarray:
        """Of the first `rows` rows at a node, those that go right; asked: of all corpora, before the rounds
        from `first` on."""
        low, middle, high = node
        whole, right = asked[low:high].sum(axis=0), asked[middle:high].sum(axis=0)
        target = rows << ROW_BITS
        at = np.searchsorted(whole, target)
        inside = (at > 0) & (at < len(whole))
        border = np.clip(at, 1, len(whole) - 1)
        done, step = target - whole[border - 1], np.maximum(whole[border] - whole[border - 1], 1)
        found = right[border - 1] + (right[border] - right[border - 1]) * done // step
        for i in np.flatnonzero(~inside).tolist():
            found[i] = self._asked_right(node, int(rows[i]), first + i)
        return found + _HALF >> ROW_BITS

    def _asked_right(self, node: tuple[int, int, int], rows: int, near: int) -> int:
        """2⁻²⁰ rows asked of a node's right side when the node had been asked for `rows`; near: a round near
        that."""
        low, middle, high = node
        target = rows << ROW_BITS
        if not target:
            return 0
        number = self._when(low, high, target, near)
        whole, right = self._sum(low, high, number), self._sum(middle, high, number)
        if whole < target:  # never: what was rounded up is shared out as the whole was
            return right + right * (target - whole) // whole
        before, right_before = self._sum(low, high, number - 1), self._sum(middle, high, number - 1)
        return right_before + (right - right_before) * (target - before) // (whole - before)

    def _sum(self, low: int, high: int, number: int) -> int:
        """2⁻²⁰ rows asked of corpora low … high − 1 before a round."""
        row = self.row(number)
        return sum(self.asked.upto(i, row) for i in range(low, high))

    def _when(self, low: int, high: int, target: int, near: int) -> int:
        """The first round before which these corpora had been asked for `target`; one beyond all where that
        never comes."""
        after, until, step = near, near, 1
        while after > 0 and self._sum(low, high, after) >= target:
            after, until, step = max(after - step, 0), after, 2 * step
        step = 1
        while self._sum(low, high, until) < target:
            if step > _FOR_EVER:
                return until
            after, until, step = until, until + step, 2 * step
        while until - after > 1:
            middle = (after + until) // 2
            reached = self._sum(low, high, middle) >= target
            after, until = (after, middle) if reached else (middle, until)
        return until
