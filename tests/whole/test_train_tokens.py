"""Runs whose ends, evaluations and saves are in tokens or minutes, on real ranks."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launcher.checkpoint.retention import steps_in
from launcher.runs.run_folder import open_run
from launcher.training import session
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import assert_same_run, config, lines_of, saved, told, train

STEP = 10 * 64
"""Positions of a step."""
SMALL: dict[str, Any] = {"model": {"layers": 1, "width": 16, "heads": 2, "dropout": 0.1}, "ema": {}}
IN_STEPS = SMALL | {
    "steps": 12,
    "optimizer": {"lr": 1e-2, "warmup": 3, "schedule": "wsd", "decay": 5},
    "checkpoint": {"every": 3, "keep": 1, "keep_every": 6},
    "eval": {"every": 4, "bytes": 3000},
    "objectives": {"causal": {}, "mlm": {"weight": [[0, 1], [40, 3]]}},
}
IN_TOKENS = SMALL | {
    "steps": f"{12 * STEP - 100} tokens",
    "optimizer": {
        "lr": 1e-2,
        "schedule": "wsd",
        "warmup": f"{3 * STEP} tokens",
        "decay": f"{5 * STEP} tokens",
    },
    "checkpoint": {"every": f"{3 * STEP} tokens", "keep": 1, "keep_every": f"{6 * STEP} tokens"},
    "eval": {"every": f"{4 * STEP} tokens", "bytes": 3000},
    "objectives": {"causal": {}, "mlm": {"weight": [[0, 1], [f"{40 * 64} tokens", 3]]}},
}


def evaluated(folder: Path) -> list[int]:
    return [line["step"] for line in lines_of(folder) if "eval" in line]


def test_a_run_in_tokens_is_that_in_steps_and_ends_there_after_edits_of_b_and_t(
    headrace: Commands, text: TrainingText, tmp_path: Path
) -> None:
    steps, tokens = tmp_path / "steps", tmp_path / "tokens"
    train(2, config(text, steps, **IN_STEPS))
    plain = config(text, tokens, **IN_TOKENS)
    train(2, plain)
    assert_same_run(tokens, steps)
    assert evaluated(tokens) == evaluated(steps) == [0, 4, 8, 12]
    saves = [steps_in(folder / "run/checkpoints") for folder in (tokens, steps)]
    assert saves[0] == saves[1] == [6, 12]
    run = tokens / "run"
    status = headrace.ok("status", run)
    assert "step 12 of 12 (7580 tokens)" in status
    assert f"go on with: headrace resume {run} 'steps=15160 tokens'" in status
    assert "is complete, 12 steps" in headrace.ok("resume", run, "batch_rows=5")

    # From step 6 with other B and T: what was read before counts as it was, and the end is the same.
    edits = "batch_rows=4", "sequence_length=32"
    dry = headrace.ok("resume", run, "--step", "6", *edits, "--dry-run")
    table = {line.split()[0]: line.split() for line in dry.splitlines() if "tokens" in line}
    last = 6 + -(-(12 * STEP - 100 - 6 * STEP) // (4 * 32))
    assert table["steps"][1:] == ["7580", "tokens", str(last), f"{6 * STEP + (last - 6) * 128:,}", "–"]
    assert "objectives.mlm.weight: 1 at 0, 3 at 2560 tokens, which changes at rows 0, 40" in dry
    train(1, plain | {"batch_rows": 4, "sequence_length": 32, "max_sequence_length": 64}, step=6)
    lines = told(tokens)
    assert (len(lines), lines[-1]["step"]) == (last, last)
    assert lines[6]["lr"] == pytest.approx(1e-2), "the decay begins by tokens"
    assert lines[-1]["lr"] == pytest.approx(1e-3)
    assert evaluated(tokens)[2:] == [6 + -(-2 * STEP // 128), last]
    assert saved(tokens)
    assert f"step {last} of {last} (7580 tokens)" in headrace.ok("status", run)
    assert "is complete" in headrace.ok("resume", run)


def test_checkpoints_by_the_clock_are_agreed_on(text: TrainingText, tmp_path: Path) -> None:
    """The clock of rank 0 alone counts: rank 1's is an hour ahead, and both save after the same steps."""
    plain = config(text, tmp_path, **SMALL) | {
        "checkpoint": {"every": [25, "0.01 minutes"], "keep": 50},
        "steps": 50,
    }
    train(2, plain, before=slowly)
    run = open_run(tmp_path / "run")
    saves = steps_in(run.checkpoints)
    assert {25, 50} < {*saves}
    assert 4 <= len(saves) < 20, saves
    assert saves == [line["step"] for line in run.ledger() if line["event"] == "checkpoint"]


def slowly(number: int) -> None:
    """Before each step; on rank 1 the session's clock is an hour ahead from the second on."""
    if number == 2 and torch.distributed.get_rank() == 1:
        session.time = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600)  # type: ignore[attr-defined]
    time.sleep(0.05)
