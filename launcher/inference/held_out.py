"""Held-out losses: a fixed set of rows for each corpus and objective, the same on any number of ranks.

The rows are made once at the start (data/stream/held_out.py) and shared out, row i of a set to rank i mod D;
their sums are added up in one all-reduce. So a loss on 4 ranks equals the one on 1 to the rounding of a sum,
and two evaluations differ by the weights alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.stream.held_out import held_out_rows
from data.stream.rows import Rows
from data.tokenization.tokenizer import Tokenizer
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.ema import WeightAverage
from launcher.engine.interface import Evaluation
from launcher.output import Report
from launcher.tracking.records import EvalCell, EvalRecord
from objectives.registry import objective_id


class Evaluator(Protocol):
    """Whoever can run the model over rows without training on them."""

    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """The sums over this rank's rows."""


@dataclass(frozen=True, slots=True)
class _Set:
    """This rank's part of the rows of one objective on one corpus."""

    corpus: str
    objective: str
    micro_batches: list[Rows]
    text_bytes: int | None


class HeldOut:
    """All held-out rows of a run, this rank's part of them."""

    def __init__(
        self,
        plan: Plan,
        corpora: Mapping[str, Corpus],
        tokenizer: Tokenizer,
        *,
        limit_bytes: int,
        micro_batch: int,
        world: World,
    ) -> None:
        """limit_bytes: of text, for each corpus; corpora that hold nothing out take no part."""
        self._sets = [
            _Set(
                corpus=part.name,
                objective=held.objective,
                micro_batches=_micro_batches(held.rows, micro_batch, world),
                text_bytes=held.text_bytes,
            )
            for part in plan.corpora
            if part.name in corpora
            for held in held_out_rows(corpora[part.name], part, plan, tokenizer, limit_bytes=limit_bytes)
        ]

    def __len__(self) -> int:
        """Sets: one for each objective on each corpus that holds text out."""
        return len(self._sets)

    def record(
        self,
        evaluator: Evaluator,
        reducer: HostSums,
        step: int,
        attempt: int,
        average: WeightAverage | None = None,
    ) -> EvalRecord:
        """The losses of all sets, and those of the average of the evaluator's weights. A collective."""
        begin = perf_counter()
        cells, averaged = self.cells(evaluator, reducer), None
        if average is not None:
            with average.in_place():
                averaged = self.cells(evaluator, reducer)
        return EvalRecord(step, attempt, cells, perf_counter() - begin, averaged)

    def cells(
        self, evaluator: Evaluator, reducer: HostSums, report: Report | None = None
    ) -> dict[str, dict[str, EvalCell]]:
        """The losses of all sets, [corpus][objective]; report(sets done, sets in all). A collective."""
        own = []
        for number, part in enumerate(self._sets, 1):
            own.append(_own_sums(evaluator, part))
            if report:
                report(number, len(self))
        sums = np.array(own)
        whole = reducer.start(sums.ravel()).wait().reshape(sums.shape)
        cells: dict[str, dict[str, EvalCell]] = {}
        for part, (loss, weight, targets, correct) in zip(self._sets, whole.tolist()):
            cells.setdefault(part.corpus, {})[part.objective] = EvalCell(
                loss=loss / weight if weight else None,
                accuracy=correct / targets if targets else None,
                bits_per_byte=loss / math.log(2) / part.text_bytes if part.text_bytes else None,
                tokens=round(targets),
            )
        return cells


def _micro_batches(rows: Rows, size: int, world: World) -> list[Rows]:
    data = world.mesh.data
    own = rows[data.rank :: data.size]
    return [own[start : start + size] for start in range(0, len(own), size)]


def _own_sums(evaluator: Evaluator, part: _Set) -> list[float]:
    """Σ weight · cross-entropy, Σ weight, targets, correct: of the set's own objective. What its rows report
    under another one's id is left to that one's set."""
    found = evaluator.evaluate(part.micro_batches)
    own = objective_id(part.objective)
    return [float(table[own].sum()) for table in (found.sums, found.weights, found.targets, found.correct)]
