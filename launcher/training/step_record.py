"""From what a step summed to the numbers that people read, with no sum of its own.

A reported loss is a part of the optimised one: its terms divided by what they were scaled with. So the
objectives' losses, weighted as optimised, always add up to the loss of the same line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.stream.mixing import StepDraws
from launcher.runs.progress import Progress
from launcher.tracking.records import CorpusRecord, DrawnRecord, ObjectiveRecord, StepRecord
from launcher.training.agreement import StepOutcome
from launcher.training.global_batch import GlobalBatch
from objectives.registry import NAMES


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step, as observers see it. All numbers are over all ranks, but for the seconds."""

    progress: Progress
    """After it."""
    global_batch: GlobalBatch
    outcome: StepOutcome
    grad_norm: float
    lr: float
    seconds: float


def step_record(
    step: Step,
    attempt: int,
    corpora: Sequence[str],
    blocks: Sequence[int],
    shares: tuple[np.ndarray, np.ndarray],
    drawn: DrawnRecord,
    mfu: float | None,
    fingerprint: str | None,
) -> StepRecord:
    """The line of a finished step. corpora, blocks: name and number of blocks by corpus id; shares: of all
    rows so far, achieved and asked (corpus_shares.py)."""
    batch_sums, scale, progress = step.global_batch.batch_sums, step.global_batch.scale, step.progress
    sums, weight, source = step.outcome.sums, batch_sums.weight, batch_sums.source
    # The plain sums Σ weight · cross-entropy; an objective without weight in this step has none.
    plain = np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)
    # One of coefficient 0 has no part in the loss, so its own is not known.
    optimised = np.where(scale > 0, weight, 0.0)
    every = float(source.sum())
    used = [o for o in range(len(NAMES)) if weight[o].any() or source[o].any()]
    objectives = {
        NAMES[o]: ObjectiveRecord(
            loss=_mean(plain[o], optimised[o]),
            weight=float(weight[o].sum()),
            tokens=round(source[o].sum()),
            share=_share(float(source[o].sum()), every),
        )
        for o in used
    }
    return StepRecord(
        step=progress.step,
        attempt=attempt,
        rows=progress.row,
        tokens=progress.tokens,
        target_tokens=progress.target_tokens,
        unknown=_share(batch_sums.unknown, batch_sums.tokens),
        loss=float(sums.sum()),
        objectives=objectives,
        corpora=_by_corpus(step, corpora, blocks, shares, plain, optimised),
        drawn=drawn,
        lr=step.lr,
        grad_norm=step.grad_norm,
        tokens_per_second=batch_sums.tokens / step.seconds,
        mfu=mfu,
        data_wait=step.global_batch.waited / step.seconds,
        step_seconds=step.seconds,
        memory_gib=step.outcome.memory_gib,
        fingerprint=fingerprint,
        padding=_share(batch_sums.padding, batch_sums.padding + batch_sums.tokens),
        cuts=round(batch_sums.cuts),
    )


def _by_corpus(
    step: Step,
    corpora: Sequence[str],
    blocks: Sequence[int],
    shares: tuple[np.ndarray, np.ndarray],
    plain: np.ndarray,
    optimised: np.ndarray,
) -> dict[str, CorpusRecord]:
    """plain, optimised: float64 [objectives, corpora], Σ weight · cross-entropy, and the weight, of what has
    a part in the loss."""
    batch_sums = step.global_batch.batch_sums
    source, every = batch_sums.source, float(batch_sums.source.sum())
    return {
        name: CorpusRecord(
            loss=_mean(plain[:, c], optimised[:, c]),
            rows=round(batch_sums.rows[c]),
            share=_share(float(source[:, c].sum()), every),
            epoch=_share(batch_sums.finished_blocks[c], blocks[c]),
            achieved=float(shares[0][c]),
            asked=float(shares[1][c]),
        )
        for c, name in enumerate(corpora)
    }


def drawn_record(step: Step, shards_of: Callable[[StepDraws], int]) -> DrawnRecord:
    """From how much text the rows of a step come; shards_of: in how many shards its blocks lie."""
    draws = StepDraws.of_vector(step.global_batch.batch_sums.drawn)
    return DrawnRecord(draws.documents, draws.blocks, shards_of(draws))


def _mean(losses: np.ndarray, weights: np.ndarray) -> float | None:
    """Of cells: the sum of their losses over that of their weights; None without any weight."""
    weight = float(weights.sum())
    return float(losses.sum()) / weight if weight > 0 else None


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
