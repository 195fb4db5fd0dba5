"""The whole trainer under kill -9, SIGTERM and changes of layout: a resumed run equals the straight one."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.distributed.world import World
from launcher.runs.run_folder import Attempt, open_run
from launcher.training import assemble
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.ranks import Running, start
from tests.support.training import (
    TIMEOUT,
    Left,
    assert_same_run,
    assert_same_tensors,
    begin,
    begun,
    config,
    last_step,
    rows_of,
    saved,
    told,
    train,
    trainer,
)


def kill_when(running: Running, due: Callable[[], bool], later: float = 0.0, patience: float = 60.0) -> bool:
    """kill -9 of every rank `later` seconds after `due`; whether they had not yet ended."""
    end = time.monotonic() + patience
    while not due() and not running.connection.poll() and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(later)
    ended = running.connection.poll()
    if not ended:
        running.kill()
    running.outcomes()
    return not ended


@pytest.mark.faults
@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.full)])
def test_killed_at_random_instants_and_inside_saves(
    text: TrainingText, straight: Path, tmp_path: Path, kills: int
) -> None:
    """Every second kill comes as soon as a save has begun, the others a random time after the start or after
    a random step."""
    luck = random.Random(7)
    plain = config(text, tmp_path)
    saves = tmp_path / "run" / "checkpoints"
    killed, inside = 0, 0
    for number in range(kills):
        running = begin(2, plain)
        if number % 2:
            before = set(saves.glob("*.partial-*"))
            killed += kill_when(running, lambda: bool(set(saves.glob("*.partial-*")) - before))  # noqa: B023
            inside += bool(set(saves.glob("*.partial-*")) - before)
        elif number % 4:
            killed += kill_when(running, lambda: True, luck.random() * 1.5)
        else:
            goal = last_step(tmp_path) + luck.randint(1, 4)
            killed += kill_when(running, lambda: last_step(tmp_path) >= goal, luck.random() * 0.03)  # noqa: B023
    train(2, plain)
    assert_same_run(tmp_path, straight)
    print(f"{killed} kills, {inside} of them inside a save")
    assert killed == kills
    assert inside >= kills // 4
    begun_starts = len(open_run(tmp_path / "run").attempts())
    assert kills * 3 // 4 + 1 <= begun_starts <= kills + 1, "some may have been killed before they had begun"


@pytest.mark.faults
def test_sigterm_to_one_rank_saves_and_leaves_with_75(
    text: TrainingText, straight: Path, tmp_path: Path
) -> None:
    plain = config(text, tmp_path)
    running = begin(2, plain)
    begun(tmp_path, 7, running)
    os.kill(running.pids[1], signal.SIGTERM)
    assert [left.code for left in running.wait()] == [75, 75]
    assert saved(tmp_path)  # of the very last step
    train(2, plain)
    assert_same_run(tmp_path, straight)
    events = [line["event"] for line in open_run(tmp_path / "run").ledger()]
    assert events[0] == "start"
    assert [event for event in events if event != "checkpoint"] == ["start", "stop", "resume", "stop"]


RING: list[tuple[int, dict[str, Any]]] = [
    (2, {"zero": 1}),
    (1, {"zero": 0}),
    (2, {"pipeline": 2}),
    (4, {"pipeline": 2}),
    (2, {"zero": 3}),
    (2, {"sequence": 2}),
    (2, {"tensor": 2}),
    (4, {"pipeline": 2, "tensor": 2}),
    (4, {"zero": 2}),
    (2, {"offload": "optimizer"}),
    (2, {"zero": 1}),
]
"""(ranks, layout): from each into the next, and at the end back to the first."""


def test_layouts_hand_over_every_tensor_and_batch(text: TrainingText, tmp_path: Path) -> None:
    """RING from layout to layout, against 2 ranks ZeRO 1 throughout. Without dropout, which is drawn by rank.
    What a layout has loaded, before its first step, is what the one before saved, bit for bit; the losses
    agree within 2e-5; the ledger has the table of each move."""
    plain = {"model": {"layers": 3, "width": 32, "heads": 2}, "ema": {"decay": 0.9}}
    alone, moved = tmp_path / "alone", tmp_path / "moved"
    straight = train(2, config(text, alone, **plain, steps=2 * len(RING)))
    handed = None
    rows: dict[int, int] = {}
    for number, (ranks, keys) in enumerate(RING, 1):
        layout = {"micro_batch": 2} | keys
        left = train(ranks, config(text, moved, **plain, layout=layout, steps=2 * number), tensors=True)
        if handed is not None:
            for one in left:
                assert_same_tensors(one.loaded, handed)
        handed = saved(moved)
        rows |= rows_of(left)
    assert rows == rows_of(straight)
    tables = [line.get("layout") for line in open_run(moved / "run").ledger() if line["event"] == "resume"]
    assert len(tables) == len(RING) - 1
    for table, (ranks, keys), (before, _) in zip(tables, RING[1:], RING, strict=False):
        assert table["processes"] == [before, None, ranks]
        for key, value in keys.items():
            assert table[key][1:] == [value, value]
    lines, expected = told(moved), told(alone)
    assert [line["fingerprint"] for line in lines] == [line["fingerprint"] for line in expected]
    losses = np.array([[line["loss"] for line in run] for run in (lines, expected)])
    print(f"largest relative difference {np.abs(losses[0] / losses[1] - 1).max():.1e}")
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)


def killed_at(world: World, plain: dict[str, Any], name: str, **options: Any) -> Left:
    """The trainer; kill -9 in place of a call of launcher/training/assemble.py."""

    def kill(*_arguments: Any, **_keywords: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    owner = Attempt if name == "begin" else assemble
    assert hasattr(owner, name), name
    setattr(owner, name, kill)
    return trainer(world, plain, **options)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["begin", "keep", "tracking", "_checkpoints"])
def test_killed_while_it_goes_back_under_another_plan(
    text: TrainingText, headrace: Commands, tmp_path: Path, name: str
) -> None:
    """begin: before it is on the record. keep: before the plan is. Others: before the old future is aside.
    At each moment the run can be looked into, and from the record on a resume ends as if nothing had been."""
    plain = config(text, tmp_path, steps=10)
    train(1, plain | {"checkpoint": {"every": 5, "keep": 10}})
    edited = config(text, tmp_path, steps=12, batch_rows=8)
    running = start(killed_at, 1, edited, name, step=5, timeout=TIMEOUT)
    assert [kind for kind, _, _ in running.outcomes()] == ["died"]
    begun = name != "begin"
    last = 5 if begun else 10
    assert [line["step"] for line in told(tmp_path)] == list(range(1, last + 1))
    run = tmp_path / "run"
    for step in (1, 5, last):
        headrace.ok("data", "trace", run, "--step", step)
    headrace.ok("data", "seen", run, "code/000000001")
    assert "checkpoints: 5, 10" in headrace.ok("status", run)
    headrace.ok("resume", run, *([] if begun else ["batch_rows=8", "steps=12", "--step", "5"]))
    assert [line["rows"] for line in told(tmp_path)] == [10, 20, 30, 40, 50, 58, 66, 74, 82, 90, 98, 106]
    for step in (5, 6, 12):
        assert "fingerprint agrees" in headrace.run("data", "trace", run, "--step", step).err
    assert (run / "checkpoints" / "step-00000010.abandoned-0003").is_dir()


def test_going_back_to_a_step_gives_up_the_other_future(
    text: TrainingText, straight: Path, tmp_path: Path
) -> None:
    """resume --step 5 of a run that stopped at 15: the lineage is the straight run's; nothing is deleted."""
    plain = config(text, tmp_path)
    train(2, plain | {"steps": 15, "checkpoint": {"every": 5, "keep": 10}})
    left = train(2, plain, step=5)
    assert min(rows_of(left)) == 5 * plain["batch_rows"]
    assert_same_run(tmp_path, straight)
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert {"step-00000010.abandoned-0002", "step-00000015.abandoned-0002"} <= set(names)
    plans = (tmp_path / "run" / "plan.jsonl").read_text().splitlines()
    assert len([line for line in plans if "plan" in json.loads(line)]) == 1, "the plan was not edited"
