"""The game by which a block's text is shared out among objectives: who is owed how many source tokens.

The next segment goes to the objective that is owed most: its weight times all tokens shared out so far and
now, less what it got. So the shares follow the weights to about one segment within a block.

What each is owed at the start is as if the block had been shared out before, a keyed number of times:

    play  1  │ a b a a c │        the plays of one block, each going on from what the one before left owed:
    play  2  │ a a b a a │        over all of them each objective gets its weight to one segment, so it does
    play  3  │ a a c a b │        in the mean of one that is drawn. The first, from debts of up to a segment,
       …                          only brings the debts to what they usually are, and is not drawn.

Else the first segments of all blocks would go to the largest weight, in small blocks the small weights would
starve, and where segments are uneven the short ones would go to whoever is owed little.
"""

import itertools
from collections.abc import Iterator, Sequence

from objectives.rng import Rng

_PLAYED = 256
"""Segments of all plays together, at least; for weights below 1/64 more, so that they get some too."""
_MOST_PLAYED = 4096
_SMALL = 64
"""Segments of a block up to which whole plays are needed; in a larger one the start matters little, so its
plays are of a few of its segments and end anywhere."""


class Shares:
    """The state of the game in one block: how many tokens were shared out, and how many each objective got.
    weights: of the objectives, sum 1; sizes: about those of the segments to come; rng: draws the state at the
    start."""

    def __init__(self, weights: Sequence[float], sizes: Sequence[int], rng: Rng) -> None:
        self.weights = list(weights)
        self.active = [i for i, weight in enumerate(weights) if weight > 0]
        self._total = 0
        self._got = [0.0] * len(self.weights)
        if len(self.active) > 1 and len(sizes):
            self._got = (rng.uniform(len(weights)) * (sum(sizes) / len(sizes))).tolist()
            for tokens in _plays(sizes, min(self.weights[i] for i in self.active), rng):
                self.book(self.most_owed(tokens, self.active), tokens)

    def most_owed(self, tokens: int, allowed: Sequence[int]) -> int:
        """Of the allowed (indices of weight > 0), the one owed most once `tokens` more are shared out."""
        total = self._total + tokens
        best, most = -1, float("-inf")
        for i in allowed:  # a plain loop: this runs once a segment, and over a few numbers nothing is quicker
            owed = self.weights[i] * total - self._got[i]
            if owed > most:
                best, most = i, owed
        return best

    def book(self, chosen: int, tokens: int) -> None:
        """Shares out `tokens`, all of them to the chosen one; a negative number takes them back."""
        self._total += tokens
        self._got[chosen] += tokens


def _plays(sizes: Sequence[int], least: float, rng: Rng) -> Iterator[int]:
    """The segments of a keyed number of plays, one at least. least: the smallest weight."""
    played = min(max(_PLAYED, int(4 / least)), _MOST_PLAYED)
    if len(sizes) <= _SMALL:
        steps = rng.integer(1, 1 - (-played // len(sizes))) * len(sizes)
    else:
        sizes = sizes[:: len(sizes) // _SMALL]
        steps = rng.integer(0, played)
    return itertools.islice(itertools.cycle(sizes), steps)
