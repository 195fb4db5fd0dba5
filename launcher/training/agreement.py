"""What all ranks learn of a step before its update, in one reduction, and what is judged from it.

    on each rank    own      ← its terms of the loss, its memory; whether its gradient is a number, whether it
                               was asked to stop, whether a save or a record of its failed; on rank 0 whether
                               a checkpoint is due by its clock
    all ranks       outcome  ← the sum of all of these: one small vector
    on each rank    loss, gradient, saves, records, stop: each judged from the outcome alone

So all ranks come to the same judgement at the same step, without another word between them, and a step that
does not stand is never made.
"""

import math
from dataclasses import dataclass

import numpy as np

from launcher.distributed.world import World


def loss_is_number(sums: np.ndarray) -> bool:
    """Whether all terms of a loss are."""
    return bool(np.isfinite(sums).all())


def gradient_is_number(norm: float) -> bool:
    """Whether a gradient of this norm is."""
    return math.isfinite(norm)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A step before its update: of one rank, and after the reduction of all ranks. An engine's Verdict."""

    sums: np.ndarray
    """float64 [objectives, corpora]: the terms of the optimised loss; their sum is the loss."""
    memory: np.ndarray
    """float64 [ranks]: GiB, the most that each has held so far."""
    stops: float
    """Ranks that were asked to stop."""
    failed_saves: float
    """Ranks on which a save failed."""
    failed_records: float
    """Ranks whose disk refused a record."""
    lost_gradients: float
    """Ranks whose gradient is no number."""
    saves_due: float = 0.0
    """Above 0: a checkpoint is due by the clock, which is that of rank 0."""

    @property
    def stop(self) -> bool:
        """Some rank was asked to stop."""
        return self.stops > 0

    @property
    def save_due(self) -> bool:
        """A checkpoint is due by the clock: on all ranks after the same step."""
        return self.saves_due > 0

    @property
    def save_failed(self) -> bool:
        """Some rank could not save its part of a checkpoint, so there is none."""
        return self.failed_saves > 0

    @property
    def record_failed(self) -> bool:
        """A record could not be written."""
        return self.failed_records > 0

    @property
    def diverged(self) -> bool:
        """The loss or its gradient is no number."""
        return not loss_is_number(self.sums) or self.lost_gradients > 0

    @property
    def apply(self) -> bool:
        """The step may change the weights, be told of and saved."""
        return not (self.save_failed or self.record_failed or self.diverged)

    @property
    def memory_gib(self) -> float:
        """The most that any rank has held so far."""
        return float(self.memory.max())

    @property
    def vector(self) -> np.ndarray:
        """float64: everything, flat, for one all-reduce."""
        flags = [self.stops, self.failed_saves, self.failed_records, self.lost_gradients, self.saves_due]
        return np.concatenate([self.sums.ravel(), flags, self.memory])

    @staticmethod
    def of_vector(vector: np.ndarray, like: "StepOutcome") -> "StepOutcome":
        """The inverse of `vector`; arrays have the shapes of those of `like`."""
        sums, flags, memory = np.split(vector, [like.sums.size, len(vector) - like.memory.size])
        return StepOutcome(sums.reshape(like.sums.shape), memory, *flags.tolist())


def own_outcome(
    sums: np.ndarray,
    norm: float,
    world: World,
    *,
    memory_gib: float,
    stop: bool,
    save_failed: bool,
    record_failed: bool,
    save_due: bool = False,
) -> StepOutcome:
    """What this rank brings to the reduction. sums, norm: as an engine gives them to its judge."""
    memory = np.zeros(world.size)
    memory[world.rank] = memory_gib
    lost = not gradient_is_number(norm)
    return StepOutcome(sums, memory, *map(float, (stop, save_failed, record_failed, lost, save_due)))
