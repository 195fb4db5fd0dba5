"""causal: each token predicts the next one, the end of the document included (GPT).

A piece x[a:b) reads `before`, x[a], …, x[b−2] and predicts x[a], …, x[b−1]; the piece that closes the
document reads its last token too and predicts `end`. So every token of a document is predicted once, wherever
it is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.draws import Draws, DrawsOfMany
from objectives.example import Example, Lexicon, Objective, Source, next_token


def causal_fit(remaining: int, length: int, last: bool) -> int:
    """Tokens of a causal piece: the closing piece needs one position more than it has tokens."""
    if remaining + last <= length:
        return remaining
    return min(remaining - 1, length)


def causal_run(source: Source) -> np.ndarray:
    """int32 [n+1], or [n+2] for the piece that closes its document: `before`, the tokens, and `end`."""
    n = len(source.tokens)
    run = np.empty(n + 1 + source.last, dtype=np.int32)
    run[0] = source.before
    run[1 : n + 1] = source.tokens
    if source.last:
        run[-1] = source.after
    return run


@dataclass(frozen=True)
class Causal(Objective):
    """No settings."""

    name: ClassVar[str] = "causal"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 0
    pairs: ClassVar[bool] = False
    density: ClassVar[float] = 1.0

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        return causal_fit(len(remaining), length, last)

    def make(self, source: Source, draws: Draws) -> Example:
        return next_token([causal_run(source)], self.id)[0]

    def make_all(self, sources: Sequence[Source], draws: DrawsOfMany) -> list[Example]:
        return next_token([causal_run(source) for source in sources], self.id)
