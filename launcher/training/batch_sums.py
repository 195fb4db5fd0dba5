"""The sums over one step's rows that the ranks add up before its forward pass, as one vector."""

from dataclasses import dataclass, field

import numpy as np

from data.stream.loader import Batch
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
    waiting: np.ndarray = field(default_factory=lambda: np.zeros(1))
    """float64 [ranks]: 1 for each that has no batch yet."""

    @property
    def vector(self) -> np.ndarray:
        """float64: everything, flat, for one all-reduce."""
        tables = [self.weight.ravel(), self.targets.ravel(), self.source.ravel()]
        numbers = [self.tokens, self.unknown, self.failures, self.stops, self.skipped]
        numbers += [self.padding, self.cuts]
        return np.concatenate([*tables, self.rows, self.finished_blocks, numbers, self.waiting])

    @staticmethod
    def of_vector(vector: np.ndarray, corpora: int) -> "BatchSums":
        """The inverse of `vector`."""
        table = len(NAMES) * corpora
        borders = np.cumsum([table, table, table, corpora, corpora, 7])
        weight, targets, source, rows, finished_blocks, numbers, waiting = np.split(vector, borders)
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
            waiting=waiting,
        )

    @staticmethod
    def none(corpora: int, failures: float = 0.0) -> "BatchSums":
        """The sums of a rank that has no batch, or has one that another rank counts."""
        table, by_corpus = np.zeros((len(NAMES), corpora)), np.zeros(corpora)
        return BatchSums(table, table, table, by_corpus, by_corpus, tokens=0.0, failures=failures)


def count(batch: Batch, corpora: int, unknown: int, *, counts: bool) -> BatchSums:
    """The sums over this rank's rows of a step. unknown: the tokenizer's id for what it cannot spell. counts:
    this rank is the one that counts the rows that it shares."""
    if not counts:
        return BatchSums.none(corpora)
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
        skipped=float(len(batch.skipped)),
        padding=float(np.count_nonzero(rows.corpus[real] < 0)),
        cuts=float(batch.cuts),
    )
