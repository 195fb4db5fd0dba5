"""What all ranks must know of a step before its forward pass, and the divisors that follow from it.

A mean of means is wrong as soon as ranks or micro-batches hold unequal numbers of targets. So the sums over
the whole global batch are known first: one all-reduce of a small vector, begun a batch early, off the
critical path. From it follows one number for each objective and corpus, `scale`, by which every loss weight
is multiplied;
the optimised loss is then a plain sum, and the reported losses are parts of that very sum
(docs/design/loss.md).

    in step n        the engine trains on batch n; the network adds up the ranks' sums of batch n + 1
    in step n + 1    wait for these sums; take batch n + 2 and begin to add up its sums; train on n + 1

How batches are taken and waited for stands in upcoming.py. Reductions are begun by this thread alone, for all
ranks must begin them in the same order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from data.errors import BadInput
from data.plan.plan import Plan
from data.stream.loader import Batch
from data.stream.skipping import LeftOut
from launcher.distributed.collectives import gather
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.training.batch_sums import BatchSums
from launcher.training.upcoming import StreamFailed, Upcoming, WaitRules


def scales(batch_sums: BatchSums, plan: Plan, row: int) -> np.ndarray:
    """float64 [objectives, corpora]: what every loss weight is multiplied by (docs/design/loss.md).

    `global`: coefficients / Σ weight of the batch.  `objective`: coefficients / max(the objective's weight in
    this batch, its planned share of the batch), so that a batch with few targets of one kind is not blown up.
    coefficients: that of the objective times that of the corpus; neither is part of the divisor.
    """
    mixture = plan.mixture
    weight = batch_sums.weight.sum(axis=1)
    if plan.normalise == "global":
        divisor = np.full_like(weight, weight.sum())
    else:
        divisor = np.maximum(weight, mixture.planned(row) * batch_sums.source.sum())
    coefficient = mixture.coefficients().astype(np.float64)
    scale = np.divide(coefficient, divisor, out=np.zeros_like(divisor), where=divisor > 0)
    return np.outer(scale, [corpus.coefficient for corpus in plan.corpora])


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One step's rows on this rank, and what is known of all ranks' rows before its forward pass."""

    batch: Batch
    batch_sums: BatchSums
    """Over the rows of all ranks."""
    scale: np.ndarray
    """float64 [objectives, corpora]: what every loss weight is multiplied by."""
    waited: float
    """Seconds of this step that passed until both were there: these sums, and this rank's next batch, for its
    sums are to be under way when the step is made."""


def global_batches(
    batches: Iterator[Batch],
    share: Callable[[Batch], Batch],
    world: World,
    reducer: HostSums,
    plan: Plan,
    waiting: WaitRules,
    left_out: LeftOut,
    unknown: int,
) -> Iterator[GlobalBatch]:
    """Each batch with its sums and scale, the next one being taken and its sums added up when it is handed
    out. plan: that in force for all of them. share: gives a rank's rows to those that share them
    (shared_rows.py). left_out: gains what all ranks leave out. unknown: the tokenizer's id for what
    it cannot spell.

    Where the stream of one rank fails, or the ranks together leave out more than the budget, every rank gets
    StreamFailed at the same batch, and StoppedWaiting likewise: none is left waiting.
    """
    of_all = LeftOut(left_out.before)

    def begin_next() -> Upcoming:
        return Upcoming(batches, world, reducer, plan, waiting, unknown)

    begin = perf_counter()
    upcoming = begin_next()
    while True:
        batch, batch_sums = upcoming.result()
        if batch_sums.skipped:
            _settle(world, batch, left_out, of_all, plan)
        batch = share(batch)
        scale = scales(batch_sums, plan, batch.first_row)
        upcoming = begin_next()
        yield GlobalBatch(batch, batch_sums, scale, perf_counter() - begin)
        begin = perf_counter()


def _settle(world: World, batch: Batch, left_out: LeftOut, of_all: LeftOut, plan: Plan) -> None:
    """What the ranks have left out for a batch, told to all of them. StreamFailed on all where that is more
    than the budget. A collective. of_all: what was told so, the same on every rank; left_out has what this
    one left out for batches to come as well, by which no verdict may go that all must share."""
    for identities in gather(world, batch.skipped):
        told = [(corpus, unit, key) for corpus, unit, key in identities]
        left_out.add(told)
        of_all.add(told)
    try:
        of_all.require_within(plan.on_bad.budget)
    except BadInput as error:
        raise StreamFailed(error) from error
