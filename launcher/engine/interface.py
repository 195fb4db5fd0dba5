"""What an engine gives back, whatever the layout: the sums of a step and of an evaluation."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the engine says of one optimizer step, on this rank."""

    sums: np.ndarray
    """float64 [objectives, corpora]: Σ scaled weight · cross-entropy over this rank's rows."""
    grad_norm: float
    """Of the whole gradient before clipping; no finite number where the gradient is none."""
