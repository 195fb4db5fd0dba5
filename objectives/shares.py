"""The game by which a block's text is shared out among objectives: who is owed how many source tokens.

The next segment goes to the objective that is owed most: its weight times all tokens shared out so far and
now, less what it got. So the shares follow the weights to about one segment within a block. What each is owed
at the start is keyed: the state of the same game after a random number of rounds of equal segments, in one of
a few games that break ties differently. Else the first segments of all blocks would go to the largest weight,
and in small blocks the small weights would starve.
"""

from collections.abc import Sequence
from functools import lru_cache

from objectives.rng import Rng

_ROUNDS = 256
_GAMES = 8


class Shares:
    """The state of the game in one block: how many tokens were shared out, and how many each objective got.
    weights: of the objectives, sum 1; typical: tokens of a typical segment; rng: draws the state at the
    start."""

    def __init__(self, weights: Sequence[float], typical: float, rng: Rng) -> None:
        self.weights = list(weights)
        self.active = [i for i, weight in enumerate(weights) if weight > 0]
        self._total = 0
        self._got = [0.0] * len(self.weights)
        if len(self.active) > 1:
            phases = _phases(tuple(self.weights), rng.integer(0, _GAMES))
            self._got = [-typical * owed for owed in phases[rng.integer(0, _ROUNDS)]]

    def most_owed(self, tokens: int, allowed: Sequence[int]) -> int:
        """Of the allowed (indices of weight > 0), the one owed most once `tokens` more are shared out."""
        return _most_owed(self.weights, self._got, self._total + tokens, allowed)

    def book(self, chosen: int, tokens: int) -> None:
        """Shares out `tokens`, all of them to the chosen one; a negative number takes them back."""
        self._total += tokens
        self._got[chosen] += tokens


def _most_owed(weights: Sequence[float], got: Sequence[float], total: float, allowed: Sequence[int]) -> int:
    """A plain loop: this runs once a segment, and over a few numbers nothing is quicker."""
    best, most = -1, float("-inf")
    for i in allowed:
        owed = weights[i] * total - got[i]
        if owed > most:
            best, most = i, owed
    return best


@lru_cache(maxsize=64)
def _phases(weights: tuple[float, ...], game: int) -> list[list[float]]:
    """What each is owed after 0, 1, … segments of size 1."""
    active = [i for i, weight in enumerate(weights) if weight > 0]
    got: list[float] = (Rng(game).uniform(len(weights)) * 1e-3).tolist()
    phases = []
    for total in range(_ROUNDS):
        phases.append([weight * total - had for weight, had in zip(weights, got)])
        got[_most_owed(weights, got, total + 1, active)] += 1
    return phases
