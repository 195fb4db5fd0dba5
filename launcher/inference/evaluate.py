"""`headrace evaluate`: the held-out losses of a run's checkpoint, computed in this process alone."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from data.errors import BadInput
from launcher import output
from launcher.config import run_config
from launcher.config.compare import changes
from launcher.config.run_config import Config
from launcher.config.yaml_reader import dotted
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.forward import PlainModel
from launcher.inference.held_out import HeldOut
from launcher.inference.trained_model import load_model
from launcher.runs.eval_corpora import open_all
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.run_folder import RunFolder
from launcher.tracking.records import EvalCell

READING = (("data", "patience"), ("data", "on_bad", "action"), ("data", "on_bad", "budget"))
"""Keys of how text is read, which may be said anew as well."""


def evaluate(run: RunFolder, overrides: Sequence[str], step: int | None, json: bool) -> None:
    """Print the held-out losses of a run's checkpoint, and those of the average of the weights where it has
    one, computed in this process. overrides: of the run's config, of what is evaluated on alone."""
    config = _edited(run.current_config(), overrides)
    with output.progress(f"evaluating {run.path}") as report:
        trained = load_model(run, step)
        done = trained.progress.step
        corpora, evaluated = open_all(config)
        _warn(refuse_unknown(config, evaluated))
        plan = trained.progress.history.newest
        held_out = HeldOut(config, plan, corpora, evaluated, trained.tokenizer, World())
        if not len(held_out):
            raise BadInput(
                f"{run.path}: no corpus of this run holds text out; name shards that were never trained on: "
                f"headrace evaluate {shlex.quote(str(run.path))} eval.corpora.NAME.shards=…"
            )
        _warn(held_out.lines)
        if not sys.stderr.isatty():
            print(f"evaluating {run.path}, step {done:,}", file=sys.stderr, flush=True)
        plain, reducer = PlainModel(trained.model), HostSums(World())
        found = {"eval": held_out.cells(plain, reducer, report)}
        if trained.take_average():
            found["ema"] = held_out.cells(plain, reducer, report)
    if json:
        output.say_json({"step": done} | {name: _plain(losses) for name, losses in found.items()})
        return
    for name, losses in found.items():
        rows = [
            [corpus, objective, cell.loss, cell.accuracy, cell.bits_per_byte, cell.tokens]
            for corpus, cells in losses.items()
            for objective, cell in cells.items()
        ]
        weights = ", the average of the weights" if name == "ema" else ""
        output.say(f"{run.path}, step {done:,}{weights}: held-out loss in nats a target")
        output.table(["corpus", "objective", "loss", "accuracy", "bits a byte", "targets"], rows)


def _edited(config: Config, overrides: Sequence[str]) -> Config:
    """BadInput where an override is about more than what is evaluated on."""
    edited = run_config.edit(config, overrides)
    for change in changes(config, edited):
        if change.key[:1] != ("eval",) and change.key not in READING:
            raise BadInput(
                f"{dotted(change.key)}: a trained model is evaluated as it was trained; expected keys of "
                "eval, such as eval.bytes=1000000 or eval.corpora.NAME.shards=…"
            )
    return edited


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"headrace: warning: {line}", file=sys.stderr, flush=True)


def _plain(losses: dict[str, dict[str, EvalCell]]) -> dict[str, Any]:
    return {corpus: {name: asdict(cell) for name, cell in cells.items()} for corpus, cells in losses.items()}
