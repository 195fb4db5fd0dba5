"""Long-context extension as a phase of a run: rows longer than planned, and another rope_base with them."""

import json
from pathlib import Path

from launcher.runs.run_folder import open_run
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import config, told, train

PHASES = [(6, {}), (10, {"sequence_length": 300, "batch_rows": 5}), (13, {"sequence_length": 32})]
"""The last step of each, and what is edited for it; T is 64 at first and is planned to be no more."""


def test_a_run_is_extended_and_goes_back(text: TrainingText, headrace: Commands, tmp_path: Path) -> None:
    """On other ranks in each phase; every past row is what one process finds by the log alone. The model
    reads what it could not before."""
    model, most = {"layers": 2, "width": 32, "heads": 2}, 64
    for ranks, (steps, edits) in zip((2, 1, 3), PHASES, strict=True):
        most = max(most, edits.get("sequence_length", 64))
        base = 10_000.0 if most == 64 else 200_000.0
        changes = {"model": model | {"rope_base": base}, "max_sequence_length": most, "steps": steps}
        train(ranks, config(text, tmp_path, **changes, **edits))
    lines = told(tmp_path)
    assert [line["rows"] for line in lines] == [10, 20, 30, 40, 50, 60, 65, 70, 75, 80, 90, 100, 110]
    assert sum(line["cuts"] for line in lines) > 0
    assert 0 < max(line["padding"] for line in lines) < 0.3
    run = open_run(tmp_path / "run")
    for step in (2, 6, 7, 10, 11, 13):
        assert "fingerprint agrees" in headrace.run("data", "trace", run.path, "--step", step).err
    planned = [json.loads(line)["plan"] for line in run.plan.read_text().splitlines()]
    assert [(plan["length"], plan["max_length"], plan["reach"]) for plan in planned] == [
        (64, 64, 1),
        (300, 64, 5),
        (32, 64, 5),
    ]
    prompt = "a mill and a wheel " * 12
    assert len(headrace.ok("generate", run.path, prompt, "--tokens", "3")) > len(prompt)


def test_the_edit_is_one_line_that_raises_what_it_must(
    text: TrainingText, headrace: Commands, tmp_path: Path
) -> None:
    """On the command line T alone is named. What it brings is told before and at the start; learned positions
    end where they end."""
    small = {"model": {"layers": 1, "width": 16, "heads": 2}, "steps": 2, "eval": {}, "ema": {}}
    train(1, config(text, tmp_path, **small))
    edit = ["steps=4", "sequence_length=200", "model.rope_base=1e6"]
    run = tmp_path / "run"
    foretold = headrace.ok("resume", run, *edit, "--dry-run")
    assert "warning: sequence_length 200 is above 64, the longest that the run planned" in foretold
    assert "4 blocks are opened as one" in foretold
    assert "padding ≈ code " in foretold
    done = headrace.run("resume", run, *edit)
    assert done.code == 0
    assert "4 blocks are opened as one" in done.out + done.err
    now = open_run(run).current_config()
    assert (now.max_sequence_length, now.model.rope_base) == (200, 1e6)
    learned = {**small, "model": {**small["model"], "positions": "learned"}}
    train(1, config(text, tmp_path / "l", **learned))
    for edits in (["sequence_length=200"], ["max_sequence_length=200"]):
        assert "learned positions" in headrace.refused("resume", tmp_path / "l" / "run", "steps=4", *edits)
