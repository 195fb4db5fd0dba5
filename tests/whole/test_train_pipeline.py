"""A run in stages: the rows, losses and checkpoints of one process, killed and resumed bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from data.stream import loader
from launcher.distributed.world import World
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.ranks import start
from tests.support.training import (
    TIMEOUT,
    Left,
    assert_close,
    assert_killed_is_straight,
    config,
    lines_of,
    rows_of,
    train,
    trainer,
)

MODEL = {"layers": 3, "width": 32, "heads": 2, "dropout": 0.1, "attention_dropout": 0.1}


def staged(text: TrainingText, folder: Path, pipeline: int, **changes: Any) -> dict[str, Any]:
    """The usual run, in so many stages; held-out rows and samples too, and rows that do not divide."""
    layout = {"zero": 1, "micro_batch": 2, "pipeline": pipeline, "activation_checkpointing": pipeline == 4}
    evaluation = {"every": 4, "bytes": 4_000, "samples": {"prompts": ["def main("], "tokens": 4}}
    plain = {"model": MODEL, "layout": layout, "eval": evaluation, "steps": 8, "checkpoint": {"every": 4}}
    plain |= {"batch_rows": [[0, 10], [30, 14], [58, 5]]}
    return config(text, folder, **plain | changes)


@pytest.mark.parametrize(("ranks", "pipeline"), [(4, 2), pytest.param(4, 4, marks=pytest.mark.full)])
def test_stages_report_what_one_process_reports(
    text: TrainingText, headrace: Commands, tmp_path: Path, ranks: int, pipeline: int
) -> None:
    """Seven objectives, dropout, steps of other numbers of rows, evaluations and samples between: every
    number of every line, and the trace of a step. The masks are those of as many data ranks alone."""
    alone, cut = tmp_path / "alone", tmp_path / "cut"
    plain = train(ranks // pipeline, staged(text, alone, pipeline=1))
    left = train(ranks, staged(text, cut, pipeline))
    assert rows_of(left) == rows_of(plain)
    for line, other in zip(lines_of(cut), lines_of(alone), strict=True):
        assert_close(line, other)
    for folder in (alone, cut):
        assert "fingerprint agrees" in headrace.run("data", "trace", folder / "run", "--step", 5).err


def reading(world: World, plain: dict[str, Any]) -> tuple[Left, int]:
    """The case: a run, and the loaders that this rank has made."""
    made, make = [], loader.Loader.__init__

    def counting(self: loader.Loader, *arguments: Any, **options: Any) -> None:
        made.append(self)
        make(self, *arguments, **options)

    loader.Loader.__init__ = counting  # type: ignore[method-assign]
    return trainer(world, plain), len(made)


def test_the_first_stage_reads_for_all(text: TrainingText, tmp_path: Path) -> None:
    found = start(reading, 3, staged(text, tmp_path, 3, steps=2), timeout=TIMEOUT).wait()
    assert [loaders for _, loaders in found] == [1, 0, 0]
    assert [len(left.rows) for left, _ in found] == [20, 0, 0]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("ranks", "pipeline", "precision"),
    [
        (4, 2, "fp32"),
        pytest.param(4, 4, "fp32", marks=pytest.mark.full),
        pytest.param(2, 2, "bf16", marks=pytest.mark.full),
    ],
)
def test_killed_and_resumed_bit_for_bit(
    text: TrainingText, tmp_path: Path, ranks: int, pipeline: int, precision: str
) -> None:
    """With dropout. Every rank is killed; then one of a stage alone, and the others end by themselves."""
    alone, killed = (
        staged(text, tmp_path / name, pipeline, steps=12, fingerprint=True) for name in ("alone", "killed")
    )
    for plain in (alone, killed):
        plain["layout"]["precision"] = precision
    assert_killed_is_straight(ranks, alone, killed)
