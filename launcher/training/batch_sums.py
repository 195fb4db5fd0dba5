"""The sums over one step's rows that the ranks add up before its forward pass, as one vector."""

from dataclasses import dataclass, field

import numpy as np

from data.plan.plan import Plan
from data.stream.loader import Batch
from data.stream.mixing import StepDraws, vector_length
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
    stops: float = 0.0
    """Ranks that were asked to stop."""
    skipped: float = 0.0
    """Samples and units left out for these rows."""
    padding: float = 0.0
    """Positions of these rows that hold no text."""
    cuts: float = 0.0
    """Of segments, made only to fill rows (data.padding)."""
    drawn: np.ndarray = field(default_factory=lambda: StepDraws().vector)
    """float64 [as the plan has streams]: the vector of a StepDraws (data/stream/mixing.py)."""
    waiting: np.ndarray = field(default_factory=lambda: np.zeros(1))
    """float64 [ranks]: 1 for each that has no batch yet."""

    @property
    def vector(self) -> np.ndarray:
        """float64: everything, flat, for one all-reduce."""
        tables = [self.weight.ravel(), self.targets.ravel(), self.source.ravel()]
        numbers = [self.tokens, self.unknown, self.failures, self.stops, self.skipped]
        numbers += [self.padding, self.cuts]
        return np.concatenate([*tables, self.rows, self.finished_blocks, numbers, self.drawn, self.waiting])

    @staticmethod
    def of_vector(vector: np.ndarray, plan: Plan) -> "BatchSums":
        """The inverse of `vector`, under the plan of the step."""
        corpora = len(plan.corpora)
        table = len(NAMES) * corpora
        borders = np.cumsum([table, table, table, corpora, corpora, 7, vector_length(plan.corpora)])
        weight, targets, source, rows, finished_blocks, numbers, drawn, waiting = np.split(vector, borders)
        tokens, unknown, failures, stops, skipped, padding, cuts = numbers.tolist()
        shape = (len(NAMES), corpora)
        return BatchSums(
            weight=weight.reshape(shape),
            targets=targets.reshape(shape),
            source=source.reshape(shape),
            rows=rows,
            finished_blocks=finished_blocks,
            tokens=tokens,
            unknown=unknown,
            failures=failures,
            stops=stops,
            skipped=skipped,
            padding=padding,
            cuts=cuts,
            drawn=drawn,
            waiting=waiting,
        )

    @staticmethod
    def none(plan: Plan, failures: float = 0.0) -> "BatchSums":
        """The sums of a rank that has no batch, or has one that another rank counts."""
        table, by_corpus = np.zeros((len(NAMES), len(plan.corpora))), np.zeros(len(plan.corpora))
        drawn = np.zeros(vector_length(plan.corpora))
        return BatchSums(
            table, table, table, by_corpus, by_corpus, tokens=0.0, failures=failures, drawn=drawn
        )


def count(batch: Batch, plan: Plan, unknown: int, *, counts: bool) -> BatchSums:
    """The sums over this rank's rows of a step. unknown: the tokenizer's id for what it cannot spell. counts:
    this rank is the one that counts the rows that it shares."""
    if not counts:
        return BatchSums.none(plan)
    rows, corpora = batch.rows, len(plan.corpora)
    weight, targets = rows.tally((len(NAMES), corpora))
    real = batch.numbers >= 0
    ids = {corpus.name: corpus.id for corpus in plan.corpora}
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
        skipped=float(len(batch.skipped)),
        padding=float(np.count_nonzero(rows.corpus[real] < 0)),
        cuts=float(batch.cuts),
        drawn=batch.drawn.vector,
    )
