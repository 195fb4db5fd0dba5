"""The whole trainer under kill -9, SIGTERM and changes of layout: a resumed run equals the straight one."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher import config as configs
from launcher import run_folder
from launcher.checkpoint import newest, read_weights
from launcher.metrics import merged, steps
from launcher.train import run_rank
from launcher.world import World
from tests.helpers import Corpora
from tests.ranks import Running, run, start


def trainer(world: World, plain: dict[str, Any]) -> int:
    """The case: what `headrace train` does in a rank; a run that exists goes on with edits."""
    config = configs.build(plain, {}, "test")
    path = config.path

    def choose() -> tuple[run_folder.RunFolder, configs.Config]:
        if (path / "config.yaml").exists():
            return run_folder.open_run(path), config
        return run_folder.start(config)

    return run_rank(world, choose)


def config_of(corpora: Corpora, folder: Path, **changes: Any) -> dict[str, Any]:
    """A tiny model on all seven objectives, 40 steps, a checkpoint every 5."""
    names = ("causal", "reverse", "mlm", "nsp", "prefix", "span", "fim")
    plain = {
        "run": {"name": "run", "folder": str(folder)},
        "steps": 40,
        "sequence_length": 64,
        "batch_rows": 10,
        "lanes": 12,
        "tokenizer": {"model": str(corpora.tokenizer_path)},
        "data": {
            "corpora": {
                "code": {"shards": corpora.code, "weight": 2, "held_out": 0.1},
                "prose": {"shards": corpora.prose, "weight": 1, "held_out": 0.1},
            }
        },
        "objectives": {name: {"weight": 1} for name in names},
        "model": {"layers": 2, "width": 32, "heads": 2, "dropout": 0.1},
        "optimizer": {"lr": 1e-2, "warmup": 5},
        "layout": {"zero": 1, "micro_batch": 2},
        "checkpoint": {"every": 5, "keep": 3},
        "wandb": {"mode": "disabled"},
        "fingerprint": True,
    }
    return plain | changes


def story(folder: Path) -> tuple[list[str], list[float], dict[str, np.ndarray]]:
    """Fingerprints and losses of all steps along the lineage, and the last weights."""
    run_ = run_folder.open_run(folder / "run")
    lines = list(steps(merged(run_)))
    found, passed_over = newest(run_.checkpoints)
    assert found is not None
    assert passed_over == []
    weights = {name: tensor.numpy() for name, tensor in read_weights(found.path).items()}
    assert [line["step"] for line in lines] == list(range(1, found.step + 1))
    return [line["fingerprint"] for line in lines], [line["loss"] for line in lines], weights


def kill_when(running: Running, due: Callable[[], bool]) -> None:
    """kill -9 of every rank once `due`, unless they have ended."""
    end = time.monotonic() + 60
    while not due() and time.monotonic() < end:
        time.sleep(0.002)
    for pid in running.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    running.outcomes()


def _last_step(folder: Path) -> int:
    run_ = run_folder.RunFolder(folder / "run")
    return max((line["step"] for line in steps(merged(run_))), default=0)


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.full)])
def test_killed_at_random_instants_and_inside_saves(corpora: Corpora, tmp_path: Path, kills: int) -> None:
    luck = random.Random(7)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(trainer, 2, config_of(corpora, straight), timeout=120) == [0, 0]
    plain = config_of(corpora, killed)
    saves = killed / "run" / "checkpoints"
    for number in range(kills):
        running = start(trainer, 2, plain, timeout=120)
        if number % 2:
            before = set(saves.glob("*.partial-*"))
            kill_when(running, lambda: bool(set(saves.glob("*.partial-*")) - before))  # noqa: B023
        else:
            goal = _last_step(killed) + luck.randint(1, 6)
            kill_when(running, lambda: _last_step(killed) >= goal)  # noqa: B023
    assert run(trainer, 2, plain, timeout=120) == [0, 0]
    expected, found = story(straight), story(killed)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    for name, weight in expected[2].items():
        np.testing.assert_array_equal(found[2][name], weight, err_msg=name)
    assert len(run_folder.open_run(killed / "run").attempts()) > kills // 2


def test_sigterm_to_one_rank_saves_and_leaves_with_75(corpora: Corpora, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run(trainer, 2, config_of(corpora, straight), timeout=120) == [0, 0]
    plain = config_of(corpora, stopped)
    running = start(trainer, 2, plain, timeout=120)
    while _last_step(stopped) < 7:
        time.sleep(0.01)
    os.kill(running.pids[1], signal.SIGTERM)
    assert running.wait() == [75, 75]
    assert run(trainer, 2, plain, timeout=120) == [0, 0]
    expected, found = story(straight), story(stopped)
    assert found[:2] == expected[:2]
    for name, weight in expected[2].items():
        np.testing.assert_array_equal(found[2][name], weight, err_msg=name)


def test_batches_are_equal_and_losses_agree_over_changes_of_layout(corpora: Corpora, tmp_path: Path) -> None:
    """2 ranks ZeRO 1 → 1 rank ZeRO 0 → 4 ranks ZeRO 3 → 2 ranks ZeRO 1: fingerprints equal, losses of a
    model without dropout within 2e-4."""
    model = {"layers": 2, "width": 32, "heads": 2}
    constant = {"optimizer": {"lr": 1e-2, "warmup": 5, "schedule": "constant"}}
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    assert run(trainer, 2, config_of(corpora, straight, **constant, model=model, steps=20), timeout=120) == [
        0,
        0,
    ]
    for number, (ranks, zero) in enumerate([(2, 1), (1, 0), (4, 3), (2, 1)], 1):
        plain = config_of(corpora, moved, model=model, layout={"zero": zero, "micro_batch": 2})
        plain |= {"steps": 5 * number, **constant}
        assert run(trainer, ranks, plain, timeout=120) == [0] * ranks
    expected, found = story(straight), story(moved)
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-4)
