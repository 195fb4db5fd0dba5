"""Weights without the rest: the mean of checkpoints, and runs that begin from those of another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from launcher.checkpoint.catalog import weights_at
from launcher.checkpoint.load import read_weights
from launcher.runs.run_folder import open_run
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import config, train

SMALL = {
    "model": {"layers": 1, "width": 16, "heads": 2},
    "objectives": {"causal": {"weight": 1}, "mlm": {"weight": 1}},
    "ema": {},
}


@pytest.fixture(scope="module")
def source(text: TrainingText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on 2 ranks, each saved; the first two as weights alone."""
    folder = tmp_path_factory.mktemp("source")
    every = {"every": 1, "keep": 1, "keep_every": 1, "weights_only_after": 1}
    train(2, config(text, folder, **SMALL, steps=4, checkpoint=every))
    saves = {path.name for path in (folder / "run" / "checkpoints").iterdir()}
    assert saves == {"weights-00000001", "weights-00000002", "step-00000003", "step-00000004"}
    return folder / "run"


def weights(run: Path, step: int) -> dict[str, np.ndarray]:
    """Those of a checkpoint of a run."""
    stored = weights_at(run / "checkpoints", step)
    whole = {name: torch.empty(shape) for name, shape in stored.shapes.items()}
    read_weights(stored, whole)
    return {name: weight.numpy() for name, weight in whole.items()}


def test_a_mean_is_taken_where_a_run_is_read(headrace: Commands, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean"
    said = headrace.ok("checkpoint", "average", source, "1", "3", "4", "--out", out)
    path = out / "checkpoints" / "weights-00000004"
    assert said == f"{path}: the mean of the weights of steps 1, 3, 4\n"
    assert {entry.name for entry in out.iterdir()} == {"config.yaml", "tokenizer.model", "checkpoints"}
    found, parts = weights(out, 4), [weights(source, step) for step in (1, 3, 4)]
    for name, weight in found.items():
        mean = sum(part[name].astype(np.float64) for part in parts) / 3
        np.testing.assert_array_equal(weight, mean.astype(np.float32))
    evaluated = [
        json.loads(headrace.ok("evaluate", run, *step, "--json"))["eval"]["code"]["causal"]["loss"]
        for run, *step in ((out,), (source, "--step", "1"), (source,))
    ]
    assert len({*evaluated}) == 3
    assert min(evaluated[1:]) - 0.5 < evaluated[0] < max(evaluated[1:])
    assert headrace.run("generate", out, "a", "--tokens", "2").code == 0
    assert "weights only" in headrace.ok("checkpoint", "ls", out)
    assert headrace.ok("checkpoint", "verify", out) == f"{path}: every byte is as it was saved\n"
    refused = headrace.refused("resume", out, "steps=9")
    assert f"{out}/checkpoints: holds weights alone, which cannot be resumed" in refused
    assert refused.endswith(f"init_from={out}")


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (["1"], "expected two steps or more, each once, got 1"),
        (["1", "1"], "expected two steps or more, each once, got 1 twice"),
        (["1", "9"], "no checkpoint of step 9; there are: 1, 2, 3, 4"),
    ],
)
def test_a_mean_that_cannot_be_is_refused(
    headrace: Commands, source: Path, tmp_path: Path, steps: list[str], line: str
) -> None:
    assert line in headrace.refused("checkpoint", "average", source, *steps, "--out", tmp_path / "mean")
    assert list(tmp_path.iterdir()) == []
    taken = headrace.refused("checkpoint", "average", source, "1", "3", "--out", tmp_path)
    assert taken == f"headrace: --out: {tmp_path} exists; name a new folder"
    assert open_run(source).path == source
