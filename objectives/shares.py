"""Who is owed how many source tokens: the game by which a block's text is shared out among objectives.

The next piece goes to the objective that is owed most: its weight times all tokens shared out so far and now,
less what it got. So the shares follow the weights to about one piece within a block. What each is owed at the
start is keyed: the state of the same game after a random number of rounds of equal pieces, in one of a few
games that break ties differently. Else the first pieces of all blocks would go to the largest weight, and in
small blocks the small weights would starve.
"""

from collections.abc import Sequence
from functools import lru_cache

from objectives.draws import Draws

_ROUNDS = 256
_GAMES = 8


class Shares:
    """weights: sum 1; typical: tokens of a typical piece; draws: for the state at the start."""

    def __init__(self, weights: Sequence[float], typical: float, draws: Draws) -> None:
        self.weights = list(weights)
        self.active = [i for i, weight in enumerate(weights) if weight > 0]
        self.owed = [0.0] * len(self.weights)
        if len(self.active) > 1:
            phases = _phases(tuple(self.weights), draws.integer(0, _GAMES))
            self.owed = [typical * owed for owed in phases[draws.integer(0, _ROUNDS)]]

    def most_owed(self, tokens: int, allowed: Sequence[int]) -> int:
        """Of the allowed (indices of weight > 0), the one owed most once `tokens` more are shared out."""
        return _most_owed(self.owed, self.weights, tokens, allowed)

    def book(self, chosen: int, tokens: int) -> None:
        """Shares out `tokens`, all of them to the chosen one; a negative number takes them back."""
        if len(self.active) > 1:
            self.owed = [owed + weight * tokens for owed, weight in zip(self.owed, self.weights)]
            self.owed[chosen] -= tokens


def _most_owed(owed: Sequence[float], weights: Sequence[float], size: float, allowed: Sequence[int]) -> int:
    if len(allowed) == 1:
        return allowed[0]
    return max(allowed, key=lambda i: owed[i] + weights[i] * size)


@lru_cache(maxsize=64)
def _phases(weights: tuple[float, ...], game: int) -> list[list[float]]:
    """What each is owed after 0, 1, … pieces of size 1."""
    active = [i for i, weight in enumerate(weights) if weight > 0]
    owed, phases = (Draws(game).uniform(len(weights)) * 1e-3).tolist(), []
    for _ in range(_ROUNDS):
        phases.append(owed)
        chosen = _most_owed(owed, weights, 1.0, active)
        owed = [value + weight for value, weight in zip(owed, weights)]
        owed[chosen] -= 1.0
    return phases
