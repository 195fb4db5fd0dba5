"""Held-out losses: a fixed set of rows for each corpus and objective, the same on any number of ranks.

    what corpora of the plan hold out     ┐
    eval.corpora, which are in no plan    ┴▶ rows (data/stream/held_out.py) ▶ row i to rank i mod D ▶ sums

The rows are made once at the start; their sums are added up in one all-reduce. So a loss on 4 ranks equals
the one on 1 to the rounding of a sum, and two evaluations of the same rows differ by the weights alone. Which
rows they are, each loss says by their fingerprint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.stream.held_out import evaluation_rows, held_out_text
from data.stream.rows import Rows, step_fingerprint
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.ema import WeightAverage
from launcher.engine.interface import Evaluation
from launcher.output import Report
from launcher.runs.eval_corpora import trained_on_before
from launcher.runs.eval_text import lines_of, read_outside
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
    fingerprint: str
    """Of the rows of all ranks."""


class HeldOut:
    """All rows that a run is evaluated on, this rank's part of them."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        corpora: Mapping[str, Corpus],
        evaluated: Mapping[str, Corpus],
        tokenizer: Tokenizer,
        world: World,
    ) -> None:
        """corpora: of the plan; those that hold nothing out take no part. evaluated: those of eval.corpora.
        BadInput for text that cannot be read, or is none."""
        limit = config.eval.bytes
        texts = [
            (held_out_text(corpora[part.name], part, plan, tokenizer, limit), part.id)
            for part in plan.corpora
            if part.name in corpora
        ]
        for name, corpus in evaluated.items():
            texts.append((read_outside(config, name, corpus, plan, tokenizer), 0))
        self.lines = trained_on_before(plan, evaluated)
        """What is to be told of the text: of what could not be used, and where a loss does not say much."""
        self.lines += [line for text, _ in texts for line in lines_of(config, text, tokenizer)]
        self._sets = [
            _Set(
                corpus=text.name,
                objective=built.objective,
                micro_batches=_micro_batches(built.rows, config.layout.micro_batch, world),
                text_bytes=built.text_bytes,
                fingerprint=step_fingerprint(built.rows.fingerprints()),
            )
            for text, corpus_id in texts
            for built in evaluation_rows(text, plan, tokenizer, corpus_id)
        ]

    def __len__(self) -> int:
        """Sets: one for each objective on each corpus that is evaluated on."""
        return len(self._sets)

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """[corpus][objective]: of the rows that the losses are of."""
        found: dict[str, dict[str, str]] = {}
        for part in self._sets:
            found.setdefault(part.corpus, {})[part.objective] = part.fingerprint
        return found

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
                rows=part.fingerprint,
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
