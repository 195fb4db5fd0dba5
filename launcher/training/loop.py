"""The training loop: a column that can be recited, the same for every layout.

    for each batch, with the sums of all ranks:     global_batch.py
        scale  ← what each objective's weights are divided by
        result ← engine.step: forward, backward, reduce, clip, update
        agree on the losses and on whether to stop
        progress ← one step later
        tell; evaluate and save when due

The loop knows no layout, no objective and no file format. Whatever observes it gets frozen records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Protocol

import numpy as np

from launcher.distributed import stop_signals
from launcher.engine.interface import StepResult
from launcher.runs.progress import Progress
from launcher.training.global_batch import GlobalBatch, StreamFailed


class End(Enum):
    """Why the loop ended; the value is the exit code."""

    FINISHED = 0
    STOPPED = stop_signals.STOPPED


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A finished step over all ranks."""

    sums: np.ndarray
    """float64 [objectives, corpora]: the terms of the optimised loss."""
    stop: bool
    """Some rank was asked to stop."""
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step, as observers see it. All numbers are over all ranks."""

    progress: Progress
    global_batch: GlobalBatch
    scale: np.ndarray
    """float64 [objectives]: what each objective's weights were multiplied by."""
    sums: np.ndarray
    """float64 [objectives, corpora]: the terms of the optimised loss; their sum is the loss."""
    grad_norm: float
    lr: float
    seconds: float
    memory_gib: float
    """The most that any rank has held so far."""


class Session(Protocol):
    """What the loop needs of a run: built in session.py from the config."""

    @property
    def steps(self) -> int:
        """The step after which the run is complete."""

    def batches(self) -> Iterator[GlobalBatch]:
        """This rank's batches with the sums of all ranks, from the start on. Raises StreamFailed."""

    def scale(self, global_batch: GlobalBatch) -> np.ndarray:
        """float64 [objectives]: what every loss weight is multiplied by."""

    def lr(self, step: int) -> float:
        """The learning rate of a step; the first is step 1."""

    def step(self, global_batch: GlobalBatch, scale: np.ndarray, step: int, lr: float) -> StepResult:
        """One optimizer step."""

    def agree(self, result: StepResult) -> StepOutcome:
        """A step's sums and flags over all ranks. A collective."""

    def tell(self, step: Step) -> None:
        """Write the step's record."""

    def after_step(self, progress: Progress) -> None:
        """Evaluate and save where this step is due for it."""

    def save(self, progress: Progress) -> None:
        """Save now, unless this very step is saved already."""


def fit(session: Session, progress: Progress) -> End:
    """Train until `steps` or a signal; what was trained is saved when it returns or raises StreamFailed."""
    batches = session.batches()
    while progress.step < session.steps:
        begin = perf_counter()
        try:
            global_batch = next(batches)
        except StreamFailed:
            session.save(progress)
            raise
        number = progress.step + 1
        scale, lr = session.scale(global_batch), session.lr(number)
        result = session.step(global_batch, scale, number, lr)
        agreed = session.agree(result)
        progress = progress.after(
            global_batch.batch,
            round(global_batch.batch_sums.tokens),
            round(global_batch.batch_sums.targets.sum()),
        )
        seconds = perf_counter() - begin
        session.tell(
            Step(progress, global_batch, scale, agreed.sums, result.grad_norm, lr, seconds, agreed.memory_gib)
        )
        session.after_step(progress)
        if agreed.stop and progress.step < session.steps:
            session.save(progress)
            return End.STOPPED
    session.save(progress)
    return End.FINISHED
