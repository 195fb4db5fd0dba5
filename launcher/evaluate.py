"""Held-out losses: a fixed set of rows for each corpus and objective, the same on any number of ranks.

The rows are made once at the start (data/heldout.py) and shared out, row i of a set to rank i mod D; their
sums are added up in one all-reduce. So a loss on 4 ranks equals the one on 1 to the rounding of a sum, and
two evaluations differ by the weights alone.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from data.corpus import Corpus
from data.errors import BadInput
from data.heldout import heldout_rows
from data.plan import Plan
from data.rows import Rows
from data.tokenizer import Tokenizer
from launcher import output
from launcher.distributed import HostSums
from launcher.forward import Evaluation, PlainModel
from launcher.output import Report
from launcher.run_folder import RunFolder
from launcher.stream_settings import open_corpora
from launcher.tracking import EvalCell, EvalRecord
from launcher.whole_model import load_model
from launcher.world import World
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
            for held in sorted(
                heldout_rows(corpora[part.name], part, plan, tokenizer, limit_bytes=limit_bytes),
                key=lambda held: objective_id(held.objective),  # as in a config, not by name
            )
        ]

    def __len__(self) -> int:
        """Sets: one for each objective on each corpus that holds text out."""
        return len(self._sets)

    def record(
        self, evaluator: Evaluator, reducer: HostSums, step: int, attempt: int, report: Report | None = None
    ) -> EvalRecord:
        """The losses of all sets; report(sets done, sets in all). A collective."""
        begin = perf_counter()
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
        return EvalRecord(step=step, attempt=attempt, eval=cells, seconds=perf_counter() - begin)


def _micro_batches(rows: Rows, size: int, world: World) -> list[Rows]:
    own = rows[world.rank :: world.size]
    return [own[start : start + size] for start in range(0, len(own), size)]


def _own_sums(evaluator: Evaluator, part: _Set) -> list[float]:
    """Σ weight · cross-entropy, Σ weight, targets, correct: of the set's own objective. What next-sentence
    rows mask besides is left to the mlm set."""
    found = evaluator.evaluate(part.micro_batches)
    own = objective_id(part.objective)
    return [float(table[own].sum()) for table in (found.sums, found.weights, found.targets, found.correct)]


def evaluate(run: RunFolder, step: int | None, json: bool) -> None:
    """Print the held-out losses of a run's checkpoint, computed in this process."""
    with output.progress(f"evaluating {run.path}") as report:
        trained = load_model(run, step)
        done = trained.progress.step
        held_out = HeldOut(
            trained.progress.history.newest,
            open_corpora(trained.config),
            trained.tokenizer,
            limit_bytes=trained.config.eval.bytes,
            micro_batch=trained.config.layout.micro_batch,
            world=World(),
        )
        if not len(held_out):
            raise BadInput(
                f"{run.path}: no corpus of this run holds text out; a run that is to be evaluated needs "
                "data.corpora.NAME.held_out from its start"
            )
        if not sys.stderr.isatty():
            print(f"evaluating {run.path}, step {done:,}", file=sys.stderr, flush=True)
        record = held_out.record(PlainModel(trained.model), HostSums(World()), done, 0, report)
    if json:
        output.say_json({"step": record.step, "eval": asdict(record)["eval"]})
        return
    rows = [
        [corpus, name, cell.loss, cell.accuracy, cell.bits_per_byte, cell.tokens]
        for corpus, cells in record.eval.items()
        for name, cell in cells.items()
    ]
    output.say(f"{run.path}, step {record.step:,}: held-out loss in nats a target")
    output.table(["corpus", "objective", "loss", "accuracy", "bits a byte", "targets"], rows)
