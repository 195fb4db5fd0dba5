"""What all ranks must know of a step before its forward pass, and the divisors that follow from it.

A mean of means is wrong as soon as ranks or micro-batches hold unequal numbers of targets. So the sums over
the whole global batch are known first: one all-reduce of a small vector, begun a batch early, off the
critical path. From it follows one number an objective, `scale`, by which every loss weight is multiplied;
the optimised loss is then a plain sum, and the reported losses are parts of that very sum
(docs/design/loss.md).

    in step n        the engine trains on batch n; the network adds up the ranks' sums of batch n + 1
    in step n + 1    wait for these sums; take batch n + 2 and begin to add up its sums; train on n + 1

Batches themselves are assembled ahead by the loader's threads (data/stream/prefetch.py). Here there is no
thread: all ranks must begin their reductions in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from data.errors import BadInput
from data.plan.plan import Plan
from data.stream.loader import Batch
from launcher.distributed.host_reduce import HostSums, Pending
from objectives.mixture import Mixture
from objectives.registry import NAMES


@dataclass(frozen=True, slots=True)
class BatchSums:
    """Sums over one step's rows; of one rank before the reduction, of all ranks after it."""

    weight: np.ndarray
    """float64 [objectives, corpora]: loss weight."""
    targets: np.ndarray
    """float64 [objectives, corpora]: positions at which something is predicted."""
    source: np.ndarray
    """float64 [objectives, corpora]: tokens of text."""
    rows: np.ndarray
    """float64 [corpora]: rows."""
    finished_blocks: np.ndarray
    """float64 [corpora]: blocks finished so far by all streams."""
    tokens: float
    """Positions besides padding."""
    unknown: float = 0.0
    """Of these, those that read the token for what the tokenizer cannot spell."""
    failures: float = 0.0
    """Ranks whose stream failed."""

    @property
    def vector(self) -> np.ndarray:
        """float64: everything, flat, for one all-reduce."""
        tables = [self.weight.ravel(), self.targets.ravel(), self.source.ravel()]
        return np.concatenate(
            [*tables, self.rows, self.finished_blocks, [self.tokens, self.unknown, self.failures]]
        )

    @staticmethod
    def of_vector(vector: np.ndarray, corpora: int) -> "BatchSums":
        """The inverse of `vector`."""
        table = len(NAMES) * corpora
        borders = np.cumsum([table, table, table, corpora, corpora])
        weight, targets, source, rows, finished_blocks, (tokens, unknown, failures) = np.split(
            vector, borders
        )
        shape = (len(NAMES), corpora)
        return BatchSums(
            weight=weight.reshape(shape),
            targets=targets.reshape(shape),
            source=source.reshape(shape),
            rows=rows,
            finished_blocks=finished_blocks,
            tokens=float(tokens),
            unknown=float(unknown),
            failures=float(failures),
        )

    @staticmethod
    def none(corpora: int, failures: float = 0.0) -> "BatchSums":
        """The sums of a rank that has no batch, or has one that another rank counts."""
        table, by_corpus = np.zeros((len(NAMES), corpora)), np.zeros(corpora)
        return BatchSums(table, table, table, by_corpus, by_corpus, tokens=0.0, failures=failures)


def count(batch: Batch, corpora: int, unknown: int) -> BatchSums:
    """The sums over this rank's rows of a step. unknown: the tokenizer's id for what it cannot spell."""
    rows = batch.rows
    weight, targets = rows.tally((len(NAMES), corpora))
    real = batch.numbers >= 0
    ids = {corpus.name: corpus.id for corpus in batch.history.at(batch.first_row).corpora}
    finished_blocks = np.zeros(corpora)
    for (corpus, _), (blocks, _) in batch.state.positions.items():
        finished_blocks[ids[corpus]] += blocks
    return BatchSums(
        weight=weight,
        targets=targets,
        source=batch.source_tokens.astype(np.float64),
        rows=np.bincount(rows.corpus[real, 0], minlength=corpora).astype(np.float64),
        finished_blocks=finished_blocks,
        tokens=float(np.count_nonzero(rows.corpus >= 0)),
        unknown=float(np.count_nonzero((rows.tokens == unknown) & (rows.corpus >= 0))),
    )


def scales(batch_sums: BatchSums, mixture: Mixture, row: int, normalise: str) -> np.ndarray:
    """float64 [objectives]: what every loss weight of an objective is multiplied by (docs/design/loss.md).

    `global`: coefficient / Σ weight of the batch.  `objective`: coefficient / max(the objective's weight in
    this batch, its planned share of the batch), so that a batch with few targets of one kind is not blown up.
    """
    weight = batch_sums.weight.sum(axis=1)
    if normalise == "global":
        divisor = np.full_like(weight, weight.sum())
    else:
        divisor = np.maximum(weight, mixture.planned(row) * batch_sums.source.sum())
    coefficient = mixture.coefficients().astype(np.float64)
    return np.divide(coefficient, divisor, out=np.zeros_like(divisor), where=divisor > 0)


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One step's rows on this rank, and what is known of all ranks' rows before its forward pass."""

    batch: Batch
    batch_sums: BatchSums
    """Over the rows of all ranks."""
    scale: np.ndarray
    """float64 [objectives]: what every loss weight of an objective is multiplied by."""
    waited: float
    """Seconds of this step that passed until both were there: these sums, and this rank's next batch, for its
    sums are to be under way when the step is made."""


class StreamFailed(Exception):
    """Some rank has no further batch. `error` is why, on the rank where it happened, and None elsewhere."""

    def __init__(self, error: BadInput | None) -> None:
        super().__init__(str(error))
        self.error = error

    def repeat(self) -> None:
        """Raises what happened on this rank, if anything did."""
        if self.error is not None:
            raise self.error


def global_batches(
    batches: Iterator[Batch], reducer: HostSums, plan: Plan, leads: bool, unknown: int
) -> Iterator[GlobalBatch]:
    """Each batch with its sums and scale, the reduction of the next one's sums under way when it is handed
    out. plan: that in force for all of them. leads: this rank counts the rows that it shares with others.
    unknown: the tokenizer's id for what it cannot spell.

    Where the stream of one rank fails, every rank gets StreamFailed at the same batch: none is left waiting.
    """
    corpora = len(plan.corpora)

    def begin_next() -> tuple[Batch | BadInput, Pending]:
        batch: Batch | BadInput
        try:
            batch = next(batches)
        except BadInput as error:
            batch = error
        if isinstance(batch, BadInput):
            own = BatchSums.none(corpora, failures=1.0)
        else:
            own = count(batch, corpora, unknown) if leads else BatchSums.none(corpora)
        return batch, reducer.start(own.vector)

    begin = perf_counter()
    upcoming = begin_next()
    while True:
        batch, handle = upcoming
        batch_sums = BatchSums.of_vector(handle.wait(), corpora)
        if batch_sums.failures:
            raise StreamFailed(batch if isinstance(batch, BadInput) else None)
        assert not isinstance(batch, BadInput)
        scale = scales(batch_sums, plan.mixture, batch.first_row, plan.normalise)
        upcoming = begin_next()
        yield GlobalBatch(batch, batch_sums, scale, perf_counter() - begin)
        begin = perf_counter()
