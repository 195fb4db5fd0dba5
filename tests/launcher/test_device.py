"""What is refused of a device before or while it is used, with stand-ins for the GPU that CI lacks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.errors import BadInput
from launcher.distributed.collectives import ToldByOtherRank
from launcher.distributed.process_group import refuse_shared
from launcher.distributed.world import World
from launcher.engine import compiler
from launcher.engine.layout import LayoutConfig
from launcher.runs.run_folder import open_run
from model.config import ModelConfig
from tests.support.helpers import TrainingText
from tests.support.ranks import run
from tests.support.training import Left, config, trainer


def meet(world: World, gpus: list[str]) -> str:
    """How a rank is refused, or that it is not, where the ranks have these GPUs."""
    try:
        refuse_shared(world, SimpleNamespace(uuid=gpus[world.rank], name="H100"))
    except ToldByOtherRank:
        return "told"
    except BadInput as error:
        return str(error)
    return "fine"


def test_ranks_that_share_a_gpu_are_refused_in_one_line() -> None:
    line, *others = run(meet, 3, ["a", "b", "a"])
    assert line.startswith(
        "processes: ranks 0 and 2 have the same GPU (H100): start one process a GPU (2 here, not 3)"
    )
    assert others == ["told", "told"]
    assert run(meet, 2, ["a", "b"]) == ["fine", "fine"]


def short_of_memory(world: World, plain: dict[str, Any], last: int) -> Left:
    """A start on whose rank 0 the GPU's memory ends after step `last`."""
    torch.cuda.mem_get_info = lambda *_: (1 << 30, 80 << 30)  # type: ignore[method-assign, assignment]

    def step(number: int) -> None:
        if number > last:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return trainer(world, plain, before=step)


def test_too_little_memory_is_one_line_and_loses_no_checkpoint(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, checkpoint={"every": 1, "keep": 3})
    (left,) = run(short_of_memory, 1, plain, 3)
    assert left.code == 2
    assert left.line is not None
    assert left.line.startswith("layout: the GPU's memory is not enough (79.0 of 80.0 GiB are taken")
    assert (
        "lower layout.micro_batch (it is 2), set layout.activation_checkpointing, "
        "set layout.offload: optimizer, take more GPUs and go on"
    ) in left.line
    ledger = open_run(tmp_path / "run").ledger()
    assert [line["step"] for line in ledger if line["event"] == "checkpoint"] == [1, 2, 3]


def short_of_machine(world: World, plain: dict[str, Any]) -> Left:
    """The case: the second step asks for more than any machine has."""
    return trainer(world, plain, before=lambda number: torch.empty(1 << (10 if number == 1 else 59)))


def test_a_machine_without_enough_memory_is_one_line_too(text: TrainingText, tmp_path: Path) -> None:
    (left,) = run(short_of_machine, 1, config(text, tmp_path, checkpoint={"every": 1, "keep": 3}))
    assert left.code == 2
    assert left.line is not None
    assert left.line.startswith("layout: the machine's memory is not enough (this process holds ")
    events = [line["event"] for line in open_run(tmp_path / "run").ledger()]
    assert "checkpoint" in events, events


@pytest.mark.parametrize(
    ("gpu", "layout", "model", "length", "refusal"),
    [
        (False, {"compile": True}, {}, 512, "layout.compile needs g"),
        (True, {"compile": True}, {}, 512, "layout.compile needs a C compiler"),
        (
            True,
            {},
            {},
            2048,
            "model.attention: flex, which auto is on a GPU for long rows, needs a C compiler",
        ),
        (True, {}, {"attention": "flex"}, 512, "model.attention: flex"),
        (True, {}, {}, 512, None),
        (True, {}, {"attention": "dense"}, 2048, None),
        (False, {}, {}, 2048, None),
    ],
)
def test_a_missing_compiler_is_told_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpu: bool,
    layout: dict[str, Any],
    model: dict[str, Any],
    length: int,
    refusal: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    asked = LayoutConfig(**layout), ModelConfig(**model), length
    if refusal is None:
        compiler.require_compiler(*asked)
        return
    with pytest.raises(BadInput, match=refusal):
        compiler.require_compiler(*asked)
    own = tmp_path / "own"
    own.touch(mode=0o755)
    monkeypatch.setenv("CC" if gpu else "CXX", str(own))
    compiler.require_compiler(*asked)
