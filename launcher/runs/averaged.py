"""`headrace checkpoint average`: the mean of the weights that a run had at several steps.

    OUT/
      config.yaml, tokenizer.model         the run's, so that `evaluate`, `generate` and init_from take OUT as
      checkpoints/weights-00000300/        they take a run: checkpoint/average.py

The folder is made under another name and appears complete. It holds no moments, so it cannot be resumed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data.durable import folder_aside, sync_folder, write_once, writing
from data.errors import BadInput
from launcher.checkpoint.average import write_average
from launcher.checkpoint.catalog import weights_at
from launcher.runs.plan_history import run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder, exists
from launcher.runs.versions import versions


def average(run: RunFolder, steps: Sequence[int], out: Path) -> Path:
    """The folder OUT of the mean over these steps of a run; the path of the checkpoint in it. BadInput where
    a step is not there, named twice, or damaged; where they are of different models; where OUT exists."""
    twice = [step for step in steps if steps.count(step) > 1]
    if twice or len(steps) < 2:
        got = f"{twice[0]} twice" if twice else f"{len(steps)}"
        raise BadInput(f"checkpoint average: expected two steps or more, each once, got {got}")
    if exists(out):
        raise BadInput(f"--out: {out} exists; name a new folder")
    if out.resolve().is_relative_to(run.path.resolve()):
        raise BadInput(f"--out: {out} lies in the run {run.path}; name a folder outside of it")
    stored = [weights_at(run.checkpoints, step) for step in steps]
    tokenizers = {Progress.from_json(one.progress).history.newest.tokenizer: one.path for one in stored}
    if len(tokenizers) > 1:
        paths = " and ".join(map(str, tokenizers.values()))
        raise BadInput(f"{paths} were trained with different tokenizers: their weights have no mean")
    tokenizer = run_tokenizer(run, next(iter(tokenizers)))
    partial = out.with_name(f".{out.name}.new")
    with writing(out), folder_aside(partial):
        (partial / "checkpoints").mkdir()
        about = {"versions": versions(), "tokenizer": tokenizer.hash}
        path = write_average(partial / "checkpoints", stored, about)
        write_once(partial / "tokenizer.model", run.tokenizer.read_bytes())
        write_once(partial / "config.yaml", run.current_config_file.read_bytes())
        os.rename(partial, out)
        sync_folder(out.parent)
    return out / path.relative_to(partial)
