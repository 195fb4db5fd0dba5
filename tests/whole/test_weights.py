"""Weights without the rest: the mean of checkpoints, and runs that begin from those of another."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.checkpoint.catalog import weights_at
from launcher.checkpoint.load import read_weights
from launcher.config import run_config
from launcher.runs.beginning import beginning
from launcher.runs.run_folder import open_run
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import begin, begun, config, saved, told, train

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
    status = headrace.ok("status", out)
    assert status.startswith(f"{out}: weights alone\n")
    assert status.endswith(f"begin a run from it with: init_from={out}\n")
    assert "resume" not in status


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


def first_line(folder: Path, attempt: int = 0) -> dict[str, Any]:
    """Of an attempt's ledger; attempts counted from 0."""
    starts = [line for line in open_run(folder / "run").ledger() if line["event"] in ("start", "resume")]
    return starts[attempt]


@pytest.mark.parametrize(
    ("ending", "step", "ranks", "zero"),
    [
        ("", 4, 2, 3),
        ("@2", 2, 1, 0),
        pytest.param("@3", 3, 1, 1, marks=pytest.mark.full),
        pytest.param("/checkpoints/weights-00000001", 1, 2, 2, marks=pytest.mark.full),
    ],
)
def test_a_run_begins_from_weights_alone(
    text: TrainingText, source: Path, tmp_path: Path, ending: str, step: int, ranks: int, zero: int
) -> None:
    """Weights and average are those of the checkpoint, moments zero, rows those of a run from the seed; with
    the source gone it is resumed."""
    own = Path(shutil.copytree(source, tmp_path / "source"))
    options = SMALL | {"layout": {"zero": zero, "micro_batch": 2}, "ema": {"decay": 0.9}, "steps": 1}
    plain = config(text, tmp_path, **options, init_from=f"{own}{ending}")
    left = train(ranks, plain, tensors=True)
    expected = weights(source, step)
    for one in left:
        assert {name for name, _ in one.loaded} == expected.keys()
        for (name, kind), tensor in one.loaded.items():
            wanted = expected[name] if kind in ("w", "ema") else np.zeros_like(tensor)
            np.testing.assert_array_equal(tensor, wanted, err_msg=f"{name} {kind}")
    line = first_line(tmp_path)
    assert (line["event"], line["step"], line["row"], line["checkpoint"]) == ("start", 0, 0, None)
    assert (line["init_from"]["step"], line["init_from"]["attempt"]) == (step, 1)
    assert line["init_from"]["path"].startswith(str(own / "checkpoints"))
    seeded = tmp_path / "seeded"
    train(ranks, config(text, seeded, **options))
    assert told(tmp_path)[0]["fingerprint"] == told(seeded)[0]["fingerprint"]
    assert told(tmp_path)[0]["loss"] != told(seeded)[0]["loss"]
    assert first_line(seeded)["init_from"] is None
    shutil.rmtree(own)
    train(ranks, plain | {"steps": 2})
    assert first_line(tmp_path, 1)["init_from"] is None
    assert len(told(tmp_path)) == 2
    assert saved(tmp_path)


def test_killed_before_it_saved_it_begins_from_the_same_again(
    text: TrainingText, source: Path, tmp_path: Path
) -> None:
    """Though the other run has saved a newer one since; and it refuses where that one is another now."""
    own = Path(shutil.copytree(source, tmp_path / "source"))
    newer, aside = own / "checkpoints" / "step-00000004", tmp_path / "aside"
    newer.rename(aside)
    plain = config(text, tmp_path, **SMALL, steps=400, checkpoint={"every": 400}, init_from=str(own))
    running = begin(1, plain)
    begun(tmp_path, 1, running)
    running.kill()
    running.outcomes()
    aside.rename(newer)
    again = begin(1, plain, tensors=True)
    begun(tmp_path, 2, again)
    again.kill()
    again.outcomes()
    assert [first_line(tmp_path, number)["init_from"]["step"] for number in (0, 1)] == [3, 3]
    manifest = own / "checkpoints" / "step-00000003" / "MANIFEST.json"
    for name in ("step-00000003", "step-00000004"):
        shutil.rmtree(own / "checkpoints" / name)
    (left,) = train(1, plain, code=2)
    assert (
        left.line
        == f"init_from: {manifest.parent}: no such folder; expected that of a run, such as runs/first"
    )


def test_what_a_run_cannot_begin_from_is_refused_in_words(
    headrace: Commands, text: TrainingText, source: Path, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"

    def refused(command: str = "train", **changes: Any) -> str:
        plain = config(text, tmp_path, **SMALL | {"steps": 1} | changes)
        file.write_text(json.dumps(plain))
        return headrace.refused(command, file)

    for command in ("train", "check"):
        line = refused(command, init_from=f"{source}@9")
        assert "init_from: " in line
        assert "no checkpoint of step 9; there are: 1, 2, 3, 4" in line
        assert f"init_from: {tmp_path}/none: no such folder" in refused(command, init_from=f"{tmp_path}/none")
        line = refused(command, init_from=str(source), model={"layers": 1, "width": 32, "heads": 2})
        assert f"init_from: {source}/checkpoints/step-00000004 holds a model of " in line
        assert line.endswith(": weights can only begin a model of their own shape")
        line = refused(command, init_from=f"{source}@last")
        assert f"init_from: {source}@last: expected RUN@STEP with the number of a step" in line
        assert "https://h/run: expected a local folder" in refused(command, init_from="https://h/run")
    alone = Path(shutil.copytree(source / "checkpoints" / "step-00000004", tmp_path / "step-00000004"))
    file.write_text(json.dumps(config(text, tmp_path, **SMALL | {"steps": 1, "init_from": str(alone)})))
    assert f"init_from: {alone} lies in no run" in headrace.ok("check", file)
    own = Path(shutil.copytree(source, tmp_path / "source"))
    damaged = own / "checkpoints" / "step-00000004" / "frag-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 8] ^= 1
    damaged.write_bytes(content)
    assert f"init_from: is damaged: {damaged}: bytes 0 to " in refused(init_from=str(own))
    damaged.write_bytes(content[:-1])
    line = refused(init_from=str(own))
    assert f"{damaged}: " in line
    assert line.endswith(f": the newest is damaged; name the step that is meant, such as {own}@3")
    wanted = run_config.build(config(text, tmp_path, **SMALL, init_from=str(source)), {}, "test")
    other: Any = SimpleNamespace(hash="0" * 32, size=Tokenizer.load(text.tokenizer_path).size)
    with pytest.raises(BadInput, match="was trained with another tokenizer"):
        beginning(wanted, other)
    assert not (tmp_path / "run" / "attempts").exists() or not open_run(tmp_path / "run").attempts()


def test_where_a_run_begins_cannot_be_edited(headrace: Commands, source: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(source, tmp_path / "source"))
    line = headrace.refused("resume", own, f"init_from={source}", "steps=9")
    assert line == (
        f"headrace: init_from: says where a run begins, and {own} has begun from its seed; begin a new run "
        "to begin elsewhere"
    )
