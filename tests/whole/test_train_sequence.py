"""A run whose rows are cut: rows, losses and checkpoints of one process, killed and resumed bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.checkpoint.format import step_name
from tests.support.commands import Commands
from tests.support.engine_cases import MODEL, train_and_save, varied
from tests.support.helpers import TrainingText
from tests.support.ranks import run
from tests.support.training import (
    assert_close,
    assert_killed_is_straight,
    config,
    lines_of,
    rows_of,
    train,
)


def cut(text: TrainingText, folder: Path, layout: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The usual run with a layout, without dropout; held-out rows and samples too, and rows that do not
    divide."""
    evaluation = {"every": 2, "bytes": 20_000, "samples": {"prompts": ["def main("], "tokens": 4}}
    plain = {
        "model": {"layers": 2, "width": 32, "heads": 4, "kv_heads": 1},
        "layout": {"zero": 1, "micro_batch": 2} | layout,
        "eval": evaluation,
        "steps": 4,
        "checkpoint": {"every": 2},
        "batch_rows": [[0, 10], [10, 14], [24, 5]],
    }
    return config(text, folder, **plain | changes)


SPREAD = [
    (2, {"sequence": 2}),
    pytest.param(4, {"sequence": 2, "zero": 3}, marks=pytest.mark.full),
    pytest.param(4, {"sequence": 2, "pipeline": 2}, marks=pytest.mark.full),
    pytest.param(4, {"sequence": 4, "zero": 0, "activation_checkpointing": True}, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("ranks", "layout"), SPREAD)
def test_rows_over_ranks_report_what_one_process_reports(
    text: TrainingText, headrace: Commands, tmp_path: Path, ranks: int, layout: dict[str, Any]
) -> None:
    """Seven objectives, steps of other numbers of rows, evaluations and samples between: every number of
    every line, and the trace of a step."""
    alone, parts = tmp_path / "alone", tmp_path / "parts"
    plain = train(1, cut(text, alone, {}))
    left = train(ranks, cut(text, parts, layout))
    assert rows_of(left) == rows_of(plain)
    for line, other in zip(lines_of(parts), lines_of(alone), strict=True):
        assert_close(line, other)
    assert "fingerprint agrees" in headrace.run("data", "trace", parts / "run", "--step", 3).err


MOVES: list[tuple[int, dict[str, Any]]] = [
    (2, {"sequence": 2, "zero": 0}),
    (2, {"zero": 1}),
    (4, {"sequence": 2, "zero": 3}),
    (2, {"zero": 3}),
    (4, {"sequence": 4, "zero": 2}),
    (4, {"sequence": 2, "pipeline": 2, "zero": 1}),
]


def test_tensors_are_equal_wherever_rows_are_cut(tmp_path: Path) -> None:
    """Each layout of MOVES goes on where the one before it was saved; each element is saved once."""
    saved = None
    losses: list[float] = []
    four = type(MODEL)(**vars(MODEL) | {"heads": 4})
    (tmp_path / "straight").mkdir()
    for number, (ranks, layout) in enumerate(MOVES):
        at = str(tmp_path / step_name(number)) if saved else None
        setting = varied(**layout, model=four, steps=len(MOVES))
        for result in run(train_and_save, ranks, setting, tmp_path, at, number + 1, number + 1, timeout=120):
            for key, tensor in (saved or {}).items():
                np.testing.assert_array_equal(result["before"][key], tensor, err_msg=str(key))
            assert result["adam"] == number + 1
        saved = result["after"]
        losses += result["losses"]
    plain = varied(model=four, steps=len(MOVES))
    straight = run(train_and_save, 1, plain, tmp_path / "straight", None, 1, len(MOVES))[0]
    np.testing.assert_allclose(losses, straight["losses"], rtol=2e-5)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, {"sequence": 2}),
        pytest.param(4, {"sequence": 2, "zero": 3, "precision": "bf16"}, marks=pytest.mark.full),
        pytest.param(4, {"sequence": 2, "pipeline": 2}, marks=pytest.mark.full),
    ],
)
def test_killed_and_resumed_bit_for_bit(
    text: TrainingText, tmp_path: Path, ranks: int, layout: dict[str, Any]
) -> None:
    """Every rank is killed; then one of a sequence alone, and the others end by themselves."""
    alone, killed = (cut(text, tmp_path / name, layout, steps=12) for name in ("alone", "killed"))
    assert_killed_is_straight(ranks, alone, killed)
