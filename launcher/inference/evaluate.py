"""`headrace evaluate`: the held-out losses of a run's checkpoint, computed in this process alone."""

import sys
from dataclasses import asdict
from typing import Any

from data.errors import BadInput
from launcher import output
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.forward import PlainModel
from launcher.inference.held_out import HeldOut
from launcher.inference.trained_model import load_model
from launcher.runs.run_folder import RunFolder
from launcher.runs.stream_settings import open_corpora
from launcher.tracking.records import EvalCell


def evaluate(run: RunFolder, step: int | None, json: bool) -> None:
    """Print the held-out losses of a run's checkpoint, and those of the average of the weights where it has
    one, computed in this process."""
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
        plain, reducer = PlainModel(trained.model), HostSums(World())
        found = {"eval": held_out.cells(plain, reducer, report)}
        if trained.take_average():
            found["ema"] = held_out.cells(plain, reducer, report)
    if json:
        output.say_json({"step": done} | {name: _plain(corpora) for name, corpora in found.items()})
        return
    for name, corpora in found.items():
        rows = [
            [corpus, objective, cell.loss, cell.accuracy, cell.bits_per_byte, cell.tokens]
            for corpus, cells in corpora.items()
            for objective, cell in cells.items()
        ]
        weights = ", the average of the weights" if name == "ema" else ""
        output.say(f"{run.path}, step {done:,}{weights}: held-out loss in nats a target")
        output.table(["corpus", "objective", "loss", "accuracy", "bits a byte", "targets"], rows)


def _plain(corpora: dict[str, dict[str, EvalCell]]) -> dict[str, Any]:
    return {corpus: {name: asdict(cell) for name, cell in cells.items()} for corpus, cells in corpora.items()}
