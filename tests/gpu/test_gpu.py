"""What only a GPU can show: its attention, ZeRO under NCCL, bf16, and a run that is killed and resumed there.

    python -m pytest tests/gpu/test_gpu.py        on a machine with a GPU; the last part of tests/gpu/run.sh

Everywhere else it is skipped. One GPU is enough: each case is one rank, but for the one that must be refused.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher.distributed.world import World
from model.attention import BACK_ENDS, visible
from tests.support.engine_cases import Setting, reference, run_setting, varied
from tests.support.helpers import TrainingText
from tests.support.layouts import WHOLE, keys
from tests.support.packed_rows import SHAPES, layout
from tests.support.ranks import RanksFailed, run
from tests.support.training import Left, assert_same_run, begin, config, last_step, told, train, trainer
from tests.whole.test_train_resume import kill_when

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PATIENCE = 180.0
"""Seconds: Triton compiles its kernels at their first use."""


def off_the_rule(world: World, back_end: str, precision: str, length: int) -> list[float]:
    """By how much a back end is off a dense mask in float64, relative to the largest value: the output, and
    the gradients of queries, keys and values. Four heads of queries over two of keys."""
    segments = [[(length // 4, shape) for shape in SHAPES], [(length, "causal")], [(7, "full")] * 9]
    start, bound = (array.cuda() for array in layout(segments, length))
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(len(segments), length, heads, 32) for heads in (4, 2, 2, 4)]
    *exact, slope = (torch.randn(shape, generator=generator, device="cuda").double() for shape in shapes)
    quick = [x.detach().to(getattr(torch, precision)).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in quick]
    keys, values = (x.repeat_interleave(2, dim=2) for x in exact[1:])
    scores = torch.einsum("bihw,bjhw->bhij", exact[0], keys) / 32**0.5
    chances = scores.masked_fill(~visible(start, bound, length)[:, None], -torch.inf).softmax(-1)
    expected = torch.einsum("bhij,bjhw->bihw", chances, values)
    expected.backward(slope)
    got = BACK_ENDS[back_end](start, bound)(*quick, 0.0)
    got.backward(slope.to(got.dtype))
    pairs = [(got, expected), *((x.grad, y.grad) for x, y in zip(quick, exact))]
    return [float((x - y).abs().max() / y.abs().max()) for x, y in pairs]  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(("back_end", "length"), [("flex", 512), ("flex", 900), ("dense", 512)])
def test_attention_follows_the_rule(back_end: str, length: int, precision: str, limit: float) -> None:
    (found,) = run(off_the_rule, 1, back_end, precision, length, timeout=PATIENCE, gpu=True)
    assert max(found) < limit, found


def settings_in_turn(world: World, settings: list[Setting]) -> list[tuple]:
    """Each setting by an engine of its own."""
    return [run_setting(world, setting) for setting in settings]


def test_every_stage_agrees_with_plain_torch() -> None:
    cells = [cell for cell in WHOLE if cell.precision == "fp32"]
    settings = [
        varied(**keys(cell), normalise=normalise)
        for cell, normalise in product(cells, ("global", "objective"))
    ]
    (found,) = run(settings_in_turn, 1, settings, timeout=PATIENCE, gpu=True)
    for setting, (losses, norms, weights) in zip(settings, found, strict=True):
        expected = reference(setting)
        np.testing.assert_allclose(losses, expected[0], rtol=2e-5, atol=1e-6, err_msg=str(setting))
        np.testing.assert_allclose(norms, expected[1], rtol=2e-4, err_msg=str(setting))
        for name, weight in expected[2].items():
            np.testing.assert_allclose(weights[name], weight, atol=2e-5, err_msg=f"{setting} {name}")


def test_bf16_agrees_within_its_rounding() -> None:
    settings = [varied(**keys(cell)) for cell in WHOLE if cell.precision == "bf16"]
    (found,) = run(settings_in_turn, 1, settings, timeout=PATIENCE, gpu=True)
    for losses, _, _ in found:
        np.testing.assert_allclose(losses, reference(varied())[0], rtol=2e-2, atol=1e-3)


def on_gpu(text: TrainingText, folder: Path, length: int, **layout: Any) -> dict[str, Any]:
    """A run of 12 steps with a checkpoint after every third."""
    folder.mkdir()
    plain = config(text, folder, steps=12, sequence_length=length, checkpoint={"every": 3, "keep": 2})
    plain["model"] |= {"width": 64}
    return plain | {"layout": {"micro_batch": 4, "precision": "bf16"} | layout}


@pytest.mark.parametrize(
    ("length", "layout"),
    [
        (2048, {"zero": 1}),
        (64, {"zero": 3}),
        (64, {"zero": 2, "offload": "optimizer"}),
        (2048, {"zero": 1, "compile": True}),
    ],
)
def test_a_killed_run_equals_the_straight_one(
    text: TrainingText, tmp_path: Path, length: int, layout: dict[str, Any]
) -> None:
    """By FlexAttention and by a dense mask, bit for bit."""
    straight, broken = (on_gpu(text, tmp_path / name, length, **layout) for name in ("straight", "broken"))
    train(1, straight, timeout=PATIENCE, gpu=True)
    running = begin(1, broken, timeout=PATIENCE, gpu=True)
    assert kill_when(running, lambda: last_step(tmp_path / "broken") >= 5, patience=PATIENCE)
    train(1, broken, timeout=PATIENCE, gpu=True)
    assert_same_run(tmp_path / "broken", tmp_path / "straight")
    lines = told(tmp_path / "straight")
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0 < lines[-1]["memory_gib"] < 8, "of the GPU, not of the host"


def test_two_processes_on_one_gpu_are_refused() -> None:
    with pytest.raises(RanksFailed, match="processes: ranks 0 and 1 have the same GPU"):
        run(settings_in_turn, 1 + torch.cuda.device_count(), [varied()], timeout=PATIENCE, gpu=True)


def short_of_memory(world: World, plain: dict[str, Any], bytes_: int) -> Left:
    """A start that may take only so much of the GPU."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(bytes_ / whole)
    return trainer(world, plain)


def test_too_little_memory_is_one_line(text: TrainingText, tmp_path: Path) -> None:
    plain = on_gpu(text, tmp_path / "large", 512)
    (left,) = run(short_of_memory, 1, plain, 24 << 20, timeout=PATIENCE, gpu=True)
    assert left.code == 2
    assert left.line is not None
    assert left.line.startswith("layout: the GPU's memory is not enough")
    assert "lower layout.micro_batch (it is 4), set layout.activation_checkpointing" in left.line
