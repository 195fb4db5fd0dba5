"""prefix: a prompt seen bidirectionally, then its continuation token by token (UniLM, T5's prefix LM).

Positions as in causal. Of the N positions the first k are the prompt, u·N rounded up or down at random so
that the share is exact in the mean, at least one; u is uniform in (low, high). They see one another, and the
last of them predicts the first token behind the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.causal import causal_fit
from objectives.example import Examples, Sources, TokenizerView, continuations
from objectives.objective import Objective
from objectives.ragged import runs_of
from objectives.rng import RngBatch


@dataclass(frozen=True)
class Prefix(Objective):
    """low, high: the range of the prompt's share of the segment."""

    name: ClassVar[str] = "prefix"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 4
    least_room: ClassVar[int | None] = 1

    low: float = 0.1
    high: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1:
            raise ValueError(f"low: expected a share of at least 0 and less than 1, got {self.low}")
        if not self.low <= self.high < 1:
            raise ValueError(f"high: expected a share from low ({self.low}) to less than 1, got {self.high}")

    @property
    def density(self) -> float:
        return 1 - (self.low + self.high) / 2

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        return causal_fit(len(remaining), length, last)

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        lengths = sources.sizes + 1 + sources.last
        runs = np.concatenate(runs_of(sources.around, sources.starts - 1, lengths))
        share = self.low + (self.high - self.low) * rng.numbers()
        prompts = np.maximum(1, (share * (lengths - 1) + rng.numbers()).astype(np.int64))
        return continuations(self.id, runs, lengths, prompts)
