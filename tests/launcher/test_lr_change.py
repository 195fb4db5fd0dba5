"""What an edit does to the learning rate where a run goes on: told before it is done, with edits that do not
let it jump."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.reporting.next_command import further_commands
from launcher.runs.lr_change import lr_change
from launcher.runs.run_folder import open_run
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import config, told, train


def made(**optimizer: Any) -> Config:
    """A config of 1000 steps."""
    plain = {
        "run": {"name": "r"},
        "steps": 1000,
        "sequence_length": 64,
        "batch_rows": 8,
        "tokenizer": {"model": "tok.model"},
        "data": {"corpora": {"code": {"shards": "code-*.tar"}}},
        "objectives": {"causal": {}},
        "model": {"layers": 1, "width": 32, "heads": 2},
        "optimizer": {"lr": 1e-3, "warmup": 100} | optimizer,
    }
    return run_config.build(plain, {}, "test")


SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "to nothing": {"min_lr": 0.0},
    "wsd": {"schedule": "wsd", "decay": 300},
    "wsd by a fifth": {"schedule": "wsd"},
    "constant": {"schedule": "constant"},
    "tiny": {"lr": 3e-7},
}
EDITS = (
    *("steps=2000", "steps=1001", "steps=600", "optimizer.lr=0.01", "optimizer.lr=0.00101"),
    *("optimizer.schedule=wsd", "optimizer.schedule=constant", "optimizer.schedule=cosine"),
    *("optimizer.warmup=0", "optimizer.warmup=2000", "optimizer.decay=10", "optimizer.min_lr=0.5"),
    *("batch_rows=16", "seed=2", "optimizer.weight_decay=0", "optimizer.grad_clip=0"),
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_edit_that_moves_the_rate_is_told_and_what_is_offered_does_not_let_it_jump(
    schedule: str,
) -> None:
    config = made(**SCHEDULES[schedule])
    old = config.timetable()
    offered = 0
    for edit in EDITS:
        edited = run_config.edit(config, [edit])
        new = edited.timetable()
        for step in (1, 50, 99, 100, 500, 599, 800, 999, 1000):
            change = lr_change(step, old, new)
            apart = abs(new.lr(step + 1) - old.lr(step + 1)) / max(new.lr(step + 1), old.lr(step + 1), 1e-30)
            assert (change is not None) == (apart > 0.02), (edit, step)
            if change is None:
                continue
            assert (change.before, change.after) == (old.lr(step), new.lr(step + 1))
            assert f"{change.before:.2e} at step {step:,} to {change.after:.2e} at" in change.line
            assert bool(change.smooth) == (change.jumps and old.lr(step) > 0)
            for one in change.smooth:
                offered += 1
                assert " ".join(one.edits) in change.line
                smooth = run_config.edit(edited, one.edits).timetable()
                assert smooth.lr(step) == pytest.approx(old.lr(step), rel=1e-5), (edit, step, one)
                rates = [smooth.lr(at) for at in range(step + 1, smooth.steps + 1)]
                assert all(rates[i] <= old.lr(step) * 1.00001 for i in range(len(rates)))
                steady = "constant" in one.edits[0]
                last = old.lr(step) * (1 if steady else smooth.optimizer.min_lr)
                assert not rates or rates[-1] == pytest.approx(last, rel=1e-5)
    assert offered > 20


def test_an_untouched_or_not_yet_begun_run_has_no_change() -> None:
    old = made().timetable()
    assert all(lr_change(step, old, old) is None for step in range(1002))
    assert lr_change(0, old, made(lr=1.0).timetable()) is None


def test_a_finished_run_tells_the_jump_where_it_says_how_to_go_on_and_each_of_its_commands_does_as_told(
    text: TrainingText, headrace: Commands, tmp_path: Path
) -> None:
    cosine = {"lr": 1e-2, "warmup": 2, "schedule": "cosine"}
    plain = config(text, tmp_path, steps=6, batch_rows=4, optimizer=cosine, objectives={"causal": {}})
    (left,) = train(1, plain)
    run = tmp_path / "run"
    commands = further_commands(open_run(run))
    shown = [line for line in left.said.splitlines() if line.startswith("go on ")]
    assert shown == [f"go on        {command}" for command in commands]
    jump = "the learning rate jumps from 1.00e-03 at step 6 to 5.50e-03 at 7"
    assert commands[0] == f"headrace resume {run} steps=12  # {jump}"
    assert headrace.ok("status", run).splitlines()[-3:] == [f"go on with: {line}" for line in commands]
    assert f"warning: the edit moves the {jump[4:17]}" in headrace.ok("resume", run, "steps=12", "--dry-run")

    (decay,) = (shlex.split(line, comments=True)[1:] for line in commands if "decay" in line)
    before_its_steps, _, _ = headrace.ok(*decay).partition("\nstep 7/12 ")
    rates = [line["lr"] for line in told(tmp_path)]
    assert rates[5:8] == pytest.approx([1e-3, 0.85e-3, 0.7e-3])
    assert rates[11] == pytest.approx(1e-4)
    # 15 % less at the first step of a decay over six is no jump, but it is told.
    assert "it goes from 1.00e-03 at step 6 to 8.50e-04 at 7; unedited" in before_its_steps

    before_its_steps, _, _ = headrace.ok("resume", run, "steps=14").partition("\nstep 13/14 ")
    jump = r"it jumps from 1.00e-04 at step 12 to 2.50e-04 at 13; .* Not to jump, edit"
    assert re.search(jump, before_its_steps)
    begun = [line for line in open_run(run).ledger() if line["event"] in ("start", "resume")]
    assert [line["lr"] for line in begun] == [None, approx(1e-3, 8.5e-4), approx(1e-4, 2.5e-4)]


def approx(*values: float) -> Any:
    return pytest.approx(values)
