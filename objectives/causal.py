"""causal: each token predicts the next one, the end of the document included (GPT).

A segment x[a:b) reads `before`, x[a], …, x[b−2] and predicts x[a], …, x[b−1]; the segment that closes the
document reads its last token too and predicts `end`. So every token of a document is predicted once, wherever
it is cut.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.example import Examples, Sources, TokenizerView, next_token
from objectives.objective import Objective
from objectives.rng import RngBatch


def causal_fit(remaining: int, length: int, last: bool) -> int:
    """Tokens of a causal segment: the closing segment needs one position more than it has tokens."""
    if remaining + last <= length:
        return remaining
    return min(remaining - 1, length)


@dataclass(frozen=True)
class Causal(Objective):
    """No settings."""

    name: ClassVar[str] = "causal"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 0
    predicts_text: ClassVar[bool] = True
    density: ClassVar[float] = 1.0
    least_room: ClassVar[int | None] = 1

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        return causal_fit(len(remaining), length, last)

    def takes_whole(self, sizes: np.ndarray, length: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return sizes + last <= length

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        """Nothing is copied: the segment and the tokens around it lie side by side as they are read."""
        return next_token(self.id, sources.around, sources.starts - 1, sources.sizes + sources.last)
