"""What an engine is asked and gives back, whatever the layout: a step that is judged, an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over some rows, float64 [objectives, corpora] each."""

    sums: np.ndarray
    """Σ weight · cross-entropy."""
    weights: np.ndarray
    """Σ weight."""
    targets: np.ndarray
    """Predicted positions."""
    correct: np.ndarray
    """Those whose target had the largest logit."""

    @staticmethod
    def of_nothing(shape: tuple[int, int]) -> "Evaluation":
        """The sums over no rows. shape: (objectives, corpora)."""
        return Evaluation(*(np.zeros(shape) for _ in range(4)))


class Verdict(Protocol):
    """What was found of a step before its update; the same on every rank."""

    @property
    def apply(self) -> bool:
        """Update the weights. Where it is false the run is left as if the step had not been made."""


V = TypeVar("V", bound=Verdict)

Judge = Callable[[np.ndarray, float], V]
"""(sums, norm) → verdict, asked once a step, between the reduction of the gradients and the update, on all
ranks at once, so it may be a collective. sums: float64 [objectives, corpora], Σ scaled weight · cross-entropy
over this rank's rows. norm: of the whole gradient over all ranks, before clipping; no finite number where the
gradient is none."""


@dataclass(frozen=True, slots=True)
class StepResult(Generic[V]):
    """What the engine says of one optimizer step, on this rank: what it was judged by, and the verdict."""

    sums: np.ndarray
    grad_norm: float
    verdict: V
