"""A run whose blocks are shared: one process's rows, losses and checkpoints; killed, resumed and moved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import (
    assert_killed_is_straight,
    config,
    rows_of,
    told,
    train,
)
from tests.whole.test_train_pipeline import assert_close, lines_of

MODEL = {"layers": 3, "width": 32, "heads": 4, "kv_heads": 2, "qk_norm": True, "dropout": 0.1}


def shared(text: TrainingText, folder: Path, **changes: Any) -> dict[str, Any]:
    """The usual run; held-out rows and samples too, and rows that do not divide."""
    evaluation = {"every": 4, "bytes": 2_000, "samples": {"prompts": ["def main("], "tokens": 4}}
    plain = {"model": MODEL, "eval": evaluation, "steps": 8, "checkpoint": {"every": 4}}
    plain |= {"batch_rows": [[0, 10], [30, 14], [58, 5]], "layout": {"zero": 1, "micro_batch": 2}}
    return config(text, folder, **plain | changes)


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, {"zero": 1}),
        pytest.param(4, {"zero": 3}, marks=pytest.mark.full),
        pytest.param(4, {"zero": 1, "pipeline": 2}, marks=pytest.mark.full),
    ],
)
def test_shared_blocks_report_what_one_process_reports(
    text: TrainingText, headrace: Commands, tmp_path: Path, ranks: int, layout: dict[str, int]
) -> None:
    """Seven objectives, dropout, steps of other numbers of rows, evaluations and samples between: every
    number of every line, and the trace of a step. The masks are those of as many data ranks alone."""
    alone, cut = tmp_path / "alone", tmp_path / "cut"
    data = ranks // (2 * layout.get("pipeline", 1))
    plain = train(data, shared(text, alone))
    left = train(ranks, shared(text, cut, layout={"micro_batch": 2, "tensor": 2} | layout), timeout=300)
    assert rows_of(left) == rows_of(plain)
    for line, other in zip(lines_of(cut), lines_of(alone), strict=True):
        assert_close(line, other)
    for folder in (alone, cut):
        assert "fingerprint agrees" in headrace.run("data", "trace", folder / "run", "--step", 5).err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, {"zero": 1, "precision": "bf16"}),
        pytest.param(4, {"zero": 3}, marks=pytest.mark.full),
        pytest.param(4, {"zero": 1, "pipeline": 2}, marks=pytest.mark.full),
    ],
)
def test_killed_and_resumed_bit_for_bit(
    text: TrainingText, tmp_path: Path, ranks: int, layout: dict[str, Any]
) -> None:
    """With dropout. Every rank is killed; then one of a group alone, and the others end by themselves."""
    alone, killed = (
        shared(
            text,
            tmp_path / name,
            layout={"micro_batch": 2, "tensor": 2} | layout,
            steps=12,
            fingerprint=True,
        )
        for name in ("alone", "killed")
    )
    assert_killed_is_straight(ranks, alone, killed)


@pytest.mark.full
def test_a_run_moves_to_shared_blocks_and_back(text: TrainingText, tmp_path: Path) -> None:
    """Two data ranks, tensor ranks, stages of them, one process: the batches and the losses of a run that
    stays what it was."""
    steady, moved = tmp_path / "steady", tmp_path / "moved"
    changes = {"model": MODEL | {"dropout": 0.0}}
    plain = train(1, shared(text, steady, **changes))
    seen: dict[int, int] = {}
    for steps, ranks, layout in (
        (2, 2, {"zero": 1}),
        (4, 2, {"zero": 2, "tensor": 2}),
        (6, 4, {"zero": 1, "tensor": 2, "pipeline": 2}),
        (8, 1, {"zero": 0}),
    ):
        leg = {"layout": {"micro_batch": 2} | layout, "checkpoint": {"every": 2}}
        seen |= rows_of(train(ranks, shared(text, moved, **changes | leg) | {"steps": steps}))
    assert seen == rows_of(plain)
    losses = [[line["loss"] for line in told(folder)] for folder in (moved, steady)]
    np.testing.assert_allclose(*losses, rtol=2e-5)
