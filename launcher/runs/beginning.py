"""`init_from`: whose weights a new run begins with, in place of those of its seed.

    RUN          the newest checkpoint of a run, or what `headrace checkpoint average` wrote
    RUN@STEP     that of one step
    FOLDER       a checkpoint itself: …/checkpoints/step-00000300

The weights and nothing else: the run begins at step 0 and row 0, its moments are zero, its stream is its own.
A resume goes on from the run's own checkpoints and never looks here. The first start puts on record which
checkpoint it took; a start of a run that died before it saved anything takes the same one again, whatever the
other run has saved since. No torch here: `check` asks too.
"""

import math
from pathlib import Path
from typing import Any

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.checkpoint.catalog import newest, opened
from launcher.checkpoint.read import StoredCheckpoint
from launcher.config.require import other_model
from launcher.config.run_config import Config
from launcher.runs.lineage import first_line
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder, exists, open_run
from model.accounting import parameters


def beginning(config: Config, tokenizer: Tokenizer, run: RunFolder | None = None) -> StoredCheckpoint | None:
    """The checkpoint whose weights a run begins with, its small files read; None: those of the seed. run:
    where it exists, so that a second start begins as the first. BadInput where it cannot be had, or is of a
    model of another size or tokenizer."""
    if config.init_from is None:
        return None
    begun = run.attempts() if run else []
    before = first_line(run, begun[-1]).get("init_from") if run and begun else None
    try:
        stored = find(before["path"] if before else config.init_from)
    except BadInput as error:
        raise BadInput(f"init_from: {error}") from None
    if before and on_record(stored) != before:
        raise BadInput(f"init_from: {stored.path}: is not what this run began from; begin a new run")
    _require_same_model(stored, config, tokenizer)
    return stored


def find(source: str) -> StoredCheckpoint:
    """What an `init_from` names, opened. BadInput where it is not there or damaged."""
    if "://" in source:
        raise BadInput(f"{source}: expected a local folder; copy the run here and name its folder")
    path, step = Path(source), None
    above, at, number = source.rpartition("@")
    if at and not exists(path):
        if number.isdigit():
            path, step = Path(above), int(number)
        elif exists(Path(above)):
            raise BadInput(
                f"{source}: expected RUN@STEP with the number of a step, such as {above}@1000; {above} alone "
                "is its newest checkpoint"
            )
    if (stored := opened(path)) is not None:
        return stored
    run = open_run(path)
    stored, passed_over = newest(run.checkpoints, step, weights=True)
    if stored is None:
        raise BadInput(f"{path}: has no checkpoint yet")
    if passed_over:
        raise BadInput(
            f"{'; '.join(passed_over)}: the newest is damaged; name the step that is meant, such as "
            f"{path}@{stored.step}"
        )
    return stored


def on_record(stored: StoredCheckpoint) -> dict[str, Any]:
    """What the ledger says of it: where it lies, of what it is, and a hash that all its bytes hang on."""
    index = stored.manifest["sha256s"]["index.json"]
    return {"path": str(stored.path), "step": stored.step, "attempt": stored.attempt, "index_sha256": index}


def not_compared(stored: StoredCheckpoint) -> str | None:
    """What cannot be said of the model of a checkpoint that lies in no run; None where it lies in one."""
    if exists(_run_of(stored) / "config.yaml"):
        return None
    return (
        f"init_from: {stored.path} lies in no run, so there is no config beside it: tokenizer and number of "
        "parameters are those of this config; heads, norms, positions and the like could not be compared"
    )


def refuse_other_beginning(run: RunFolder, config: Config) -> None:
    """BadInput where an edit names other weights for a run that has begun."""
    was = run.current_config().init_from
    if run.attempts() and config.init_from != was:
        raise BadInput(
            f"init_from: says where a run begins, and {run.path} has begun from {was or 'its seed'}; begin a "
            "new run to begin elsewhere"
        )


def _require_same_model(stored: StoredCheckpoint, config: Config, tokenizer: Tokenizer) -> None:
    """BadInput unless tokenizer and size are the same. That the shapes are is seen when they are loaded."""
    theirs = Progress.from_json(stored.progress).history.newest.tokenizer
    if theirs != tokenizer.hash:
        raise BadInput(
            f"init_from: {stored.path} was trained with another tokenizer (hash {theirs[:16]}) than "
            f"{config.tokenizer.model} (hash {tokenizer.hash[:16]}): its ids mean other pieces; train with "
            "the tokenizer.model of that run"
        )
    there = sum(math.prod(shape) for shape in stored.shapes.values())
    here = parameters(config.model, tokenizer.size)
    if there != here:
        raise BadInput(
            f"init_from: {stored.path} holds a model of {there:,} parameters, the config's has {here:,}: "
            "weights can only begin a model of their own shape"
        )
    source = _run_of(stored)
    if exists(source / "config.yaml"):
        model = open_run(source).current_config().model
        if line := other_model(model, config.model):
            raise BadInput(f"init_from: {source}: {line}")


def _run_of(stored: StoredCheckpoint) -> Path:
    """The run around …/checkpoints/step-N; a folder alone keeps no config."""
    return stored.path.parent.parent
