"""Tensor parallelism against plain torch: losses, norm and weights; what is whole on all ranks stays equal.

Adam and clipping hide a factor on a gradient, so the norm is compared always: it is wrong where a part is
taken for a whole or a whole counted twice. And the loss hides weights that drift apart on the ranks of a
group, as the gains of qk_norm would without a sum of their gradients, so those are compared bit for bit.
"""

import functools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher.checkpoint.format import step_name
from launcher.distributed.mesh import Axis
from launcher.distributed.process_group import group_along
from launcher.distributed.world import World
from launcher.engine.cut import cover_fault
from launcher.engine.deepspeed import start as engine_deepspeed
from launcher.engine.engine import Engine
from launcher.engine.parallel.tensor import cuts_of, gathered, joined, share_of, whole_shape
from model.share import Sections
from tests.support.engine_cases import (
    MODEL,
    Ruling,
    Setting,
    elements,
    make_engine,
    reference,
    rows_of,
    scale_of,
    share,
    train,
    train_and_evaluate,
    train_and_save,
    varied,
)
from tests.support.layouts import cover
from tests.support.ranks import run

LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "tensor": (2, {"tensor": 2}),
    "tensor × data": (4, {"tensor": 2}),
    "pipeline × tensor": (4, {"tensor": 2, "pipeline": 2}),
    "pipeline × tensor × data": (8, {"tensor": 2, "pipeline": 2}),
}
"""Name → ranks, degrees."""

MODELS = {
    "usual": MODEL,
    "grouped": replace(MODEL, heads=4, kv_heads=2, qk_norm=True),
    "other": replace(
        MODEL,
        norm="layer",
        norm_placement="post",
        qk_norm=True,
        positions="learned",
        activation="gelu",
        tie_embeddings=False,
    ),
}

MATRIX = [
    (layout, zero, model, checkpointing, normalise)
    for layout, zero, model, checkpointing, normalise in product(
        LAYOUTS, (0, 1, 2, 3), MODELS, (False, True), ("global", "objective")
    )
    if zero < 2 or "pipeline" not in layout
]
COVER = cover([row for row in MATRIX if LAYOUTS[row[0]][0] < 8])
BF16 = [("tensor", 1), ("tensor × data", 3), ("pipeline × tensor", 1)]
BF16_MORE = [("tensor", 2), ("tensor", 3), ("tensor × data", 1), ("pipeline × tensor × data", 1)]


def whole_ones(engine: Engine) -> Iterator[tuple[str, np.ndarray]]:
    """(name, weight) of what this rank has whole, as it lies on this rank."""
    shared = engine.model.shared_weights()
    for name, weight in engine.model.named_weights().items():
        if name not in shared:
            if engine.layout.zero == 3:
                with engine_deepspeed.undivided([weight]):
                    yield name, weight.detach().float().numpy().copy()
            else:
                yield name, weight.detach().float().numpy().copy()


def run_shared(world: World, setting: Setting) -> tuple[list[float], list[float], dict, dict]:
    """The case: losses, norms, whole weights; and those of which this rank has a copy."""
    engine = make_engine(world, setting)
    losses, norms = train(engine, setting)
    weights = {name: weight.float().numpy().copy() for name, weight in engine.each_weight()}
    return losses, norms, weights, dict(whole_ones(engine))


@functools.cache
def expected(model: str, normalise: str) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    return reference(varied(model=MODELS[model], normalise=normalise))


def assert_alike(found: list[tuple]) -> None:
    """All ranks say the same, and copies of a weight are the same to the bit."""
    seen: dict[str, np.ndarray] = {}
    for losses, norms, _, copies in found:
        assert (losses, norms) == found[0][:2]
        for name, weight in copies.items():
            assert np.array_equal(weight, seen.setdefault(name, weight)), name


def check(layout: str, zero: int, model: str, checkpointing: bool, normalise: str) -> None:
    ranks, degrees = LAYOUTS[layout]
    setting = varied(
        zero=zero,
        model=MODELS[model],
        activation_checkpointing=checkpointing,
        normalise=normalise,
        **degrees,
    )
    losses, norms, weights = expected(model, normalise)
    found = run(run_shared, ranks, setting, timeout=120)
    assert_alike(found)
    np.testing.assert_allclose(found[0][0], losses, rtol=2e-5)
    np.testing.assert_allclose(found[0][1], norms, rtol=2e-5)
    for name, weight in weights.items():
        np.testing.assert_allclose(found[-1][2][name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("layout", "zero", "model", "checkpointing", "normalise"), COVER)
def test_shared_blocks_agree_with_plain_torch(
    layout: str, zero: int, model: str, checkpointing: bool, normalise: str
) -> None:
    check(layout, zero, model, checkpointing, normalise)


@pytest.mark.full
@pytest.mark.parametrize(
    ("layout", "zero", "model", "checkpointing", "normalise"), [row for row in MATRIX if row not in COVER]
)
def test_blocks_shared_in_every_way_agree_with_plain_torch(
    layout: str, zero: int, model: str, checkpointing: bool, normalise: str
) -> None:
    check(layout, zero, model, checkpointing, normalise)


@pytest.mark.parametrize(
    ("layout", "zero"), [*BF16, *(pytest.param(*row, marks=pytest.mark.full) for row in BF16_MORE)]
)
def test_shared_blocks_in_bf16_agree_within_its_rounding(layout: str, zero: int) -> None:
    ranks, degrees = LAYOUTS[layout]
    losses, norms, _ = expected("grouped", "global")
    setting = varied(zero=zero, precision="bf16", model=MODELS["grouped"], **degrees)
    found = run(run_shared, ranks, setting, timeout=120)
    assert_alike(found)
    np.testing.assert_allclose(found[0][0], losses, rtol=2e-2)
    np.testing.assert_allclose(found[0][1], norms, rtol=3e-2)


@pytest.mark.full
def test_four_ranks_share_four_heads() -> None:
    setting = varied(model=replace(MODEL, heads=4), tensor=4, zero=3)
    losses, norms, _ = reference(setting)
    found = run(run_shared, 8, setting, timeout=120)
    assert_alike(found)
    np.testing.assert_allclose(found[0][0], losses, rtol=2e-5)
    np.testing.assert_allclose(found[0][1], norms, rtol=2e-5)


@pytest.mark.parametrize("layout", ["tensor", pytest.param("pipeline × tensor", marks=pytest.mark.full)])
def test_dropout_is_that_of_unshared_blocks(layout: str) -> None:
    """The ranks of a group drop the same elements, and those that one rank alone would drop."""
    ranks, degrees = LAYOUTS[layout]
    dropping = varied(model=replace(MODEL, dropout=0.3))
    (alone,) = run(run_shared, 1, dropping)
    found = run(run_shared, ranks, replace(dropping, **degrees))
    assert_alike(found)
    np.testing.assert_allclose(found[0][0], alone[0], rtol=2e-5)
    np.testing.assert_allclose(found[0][1], alone[1], rtol=2e-5)
    assert not np.allclose(alone[0], expected("usual", "global")[0], rtol=1e-3), "something was dropped"


@pytest.mark.parametrize(
    "layout", ["tensor × data", pytest.param("pipeline × tensor", marks=pytest.mark.full)]
)
def test_evaluation_counts_each_row_once(layout: str) -> None:
    """Rows of a group are counted by its first rank, those of each data rank by themselves."""
    ranks, degrees = LAYOUTS[layout]
    heights = (3, 5, 1)
    (alone,) = run(train_and_evaluate, 1, varied(), heights)
    found = run(train_and_evaluate, ranks, varied(**degrees), heights)
    copies = ranks // np.prod(list(degrees.values()))
    told = np.array([values[-len(heights) :] for values in found]).sum(0)
    np.testing.assert_allclose(told, copies * np.array(alone[-len(heights) :]), rtol=2e-5)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize(("layout", "zero"), [("tensor", 1), ("tensor", 3), ("pipeline × tensor", 1)])
def test_shared_blocks_are_compiled(layout: str, zero: int) -> None:
    ranks, degrees = LAYOUTS[layout]
    plain, compiled = (
        run(train_and_evaluate, ranks, varied(zero=zero, compile=compile_, **degrees), (3, 5, 1), timeout=300)
        for compile_ in (False, True)
    )
    for ours, theirs in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-6)


def sums_of_strange_tensors(world: World) -> list[bool]:
    """The case: what a reduction would lose if it were made on a copy: tensors whose memory is not in
    order, forward and in the gradient."""
    world = replace(world, degrees=replace(world.degrees, tensor=world.size))
    share = share_of(world.mesh.tensor, group_along(world, "tensor"))
    own = torch.arange(12.0).view(3, 4).mul(world.rank + 1)
    both = torch.arange(12.0).view(3, 4).mul(3)
    term = own.t().requires_grad_()
    left = share.leave(term)
    entering = torch.zeros(4, 3, requires_grad=True)
    entered = share.enter(entering)
    entered.backward(own.t())
    left.backward(own.t())
    untouched = torch.arange(12.0).view(3, 4).mul(world.rank + 1)
    return [
        torch.equal(left.detach(), both.t()),
        torch.equal(own, untouched),
        entering.grad is not None and torch.equal(entering.grad, both.t()),
        term.grad is not None and torch.equal(term.grad, untouched.t()),
    ]


def test_what_is_not_contiguous_is_added_up_too() -> None:
    assert run(sums_of_strange_tensors, 2) == [[True] * 4] * 2


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    "sections", [Sections(0, (8, 4, 4)), Sections(0, (12,)), Sections(1, (24,))], ids=str
)
def test_parts_are_the_elements_that_their_cuts_say(sections: Sections, size: int) -> None:
    shape = (5, 24) if sections.dim else (sum(sections.sizes), 7)
    whole = torch.arange(shape[0] * shape[1]).view(shape)
    cuts = [cuts_of(shape, sections, Axis(rank, size)) for rank in range(size)]
    assert cover_fault([cut for own in cuts for cut in own], whole.numel()) is None
    part = list(shape)
    part[sections.dim] //= size
    parts = [
        whole.view(-1)[torch.from_numpy(np.concatenate([elements(cut) for cut in own]))].view(part)
        for own in cuts
    ]
    assert whole_shape(part, sections) == shape
    assert torch.equal(joined(parts, sections), whole)


def parts_held(world: World, setting: Setting) -> tuple[int, int]:
    """The case: elements of the weights that this rank has, and of the whole model."""
    engine = make_engine(world, setting)
    own = sum(weight.numel() for weight in engine.model.parameters())
    sections = engine.model.shared_weights()
    for name, weight in engine.model.named_weights().items():
        if name in sections:
            whole = gathered(weight.detach(), sections[name], engine._tensor_group)
            assert whole.shape == engine.state.shapes[name]
    return own, sum(int(np.prod(shape)) for shape in engine.state.shapes.values())


def test_a_rank_has_its_part_of_the_matrices_and_no_more() -> None:
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 24)
    for own, whole in run(parts_held, 2, varied(tensor=2)):
        assert own == whole - matrices // 2


MOVES: list[tuple[int, dict[str, Any]]] = [
    (2, {"zero": 1}),
    (2, {"zero": 1, "tensor": 2}),
    (4, {"zero": 3, "tensor": 2}),
    (4, {"zero": 0, "tensor": 2}),
    (2, {"zero": 3}),
    (4, {"zero": 1, "tensor": 2, "pipeline": 2}),
    (4, {"zero": 2, "tensor": 2}),
    (2, {"zero": 1, "pipeline": 2}),
]
"""Ranks and layout of each leg of a run."""


def test_tensors_are_equal_at_every_move(tmp_path: Path) -> None:
    """Two steps in each layout; weights and moments bit for bit at each start, losses as if it had never
    moved. A save covers every element once, else it is refused."""
    saved: dict[tuple[str, str], np.ndarray] = {}
    losses: list[float] = []
    model, steps = MODELS["grouped"], 2 * len(MOVES)
    for number, (ranks, layout) in enumerate(MOVES):
        first, last = 2 * number + 1, 2 * number + 2
        at = str(tmp_path / step_name(first - 1)) if saved else None
        found = run(
            train_and_save, ranks, varied(model=model, steps=steps, **layout), tmp_path, at, first, last
        )
        for one in found:
            for key, tensor in saved.items():
                np.testing.assert_array_equal(one["before"][key], tensor, err_msg=f"{layout} {key}")
            assert one["adam"] == last
        saved = found[0]["after"]
        losses += found[0]["losses"]
    straight, _, _ = reference(varied(model=model, steps=steps))
    np.testing.assert_allclose(losses, straight, rtol=2e-5)


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS)
def test_every_layout_takes_up_every_other(tmp_path: Path, model: str) -> None:
    for number, (ranks, layout) in enumerate(MOVES):
        (tmp_path / str(number)).mkdir()
        setting = varied(model=MODELS[model], steps=3, **layout)
        saved = run(train_and_save, ranks, setting, tmp_path / str(number), None, 1, 2)[0]["after"]
        at = str(tmp_path / str(number) / step_name(2))
        for other, (ranks_then, layout_then) in enumerate(MOVES):
            folder = tmp_path / f"{number}-{other}"
            folder.mkdir()
            setting = varied(model=MODELS[model], steps=3, **layout_then)
            for one in run(train_and_save, ranks_then, setting, folder, at, 3, 3):
                for key, tensor in saved.items():
                    np.testing.assert_array_equal(one["before"][key], tensor, err_msg=f"{layout_then} {key}")


@pytest.mark.parametrize(
    ("layout", "zero", "precision"),
    [
        ("tensor", 1, "bf16"),
        pytest.param("tensor", 0, "fp32", marks=pytest.mark.full),
        pytest.param("tensor", 2, "fp32", marks=pytest.mark.full),
        pytest.param("tensor × data", 3, "fp32", marks=pytest.mark.full),
        pytest.param("pipeline × tensor", 1, "fp32", marks=pytest.mark.full),
    ],
)
def test_the_same_layout_goes_on_bit_for_bit(tmp_path: Path, layout: str, zero: int, precision: str) -> None:
    ranks, degrees = LAYOUTS[layout]
    setting = varied(zero=zero, precision=precision, steps=4, **degrees)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = run(train_and_save, ranks, setting, tmp_path / "a", None, 1, 4)[0]
    first = run(train_and_save, ranks, setting, tmp_path / "b", None, 1, 2)[0]
    second = run(train_and_save, ranks, setting, tmp_path / "b", str(tmp_path / "b" / step_name(2)), 3, 4)[0]
    assert first["losses"] + second["losses"] == straight["losses"]
    for key, tensor in straight["after"].items():
        np.testing.assert_array_equal(second["after"][key], tensor, err_msg=str(key))


def spoilt(world: World, setting: Setting, rank: int, name: str) -> tuple[list[bool], bool]:
    """The case: whether any rank's norm was no number, of a step with a gradient of one weight that is none
    on one rank, and of one without; and whether masters are all numbers afterwards."""
    engine = make_engine(world, setting)
    weight = engine.model.named_weights()[name]
    told = []
    for number, bad in enumerate((True, False), 1):
        spoils = bad and world.rank == rank
        handle = weight.register_hook(lambda gradient: gradient + math.nan) if spoils else None

        def judge(_sums: np.ndarray, norm: float) -> Ruling:
            told.append(bool(engine.reduce(np.array([not math.isfinite(norm)]))[0]))
            return Ruling(apply=not told[-1])

        rows = rows_of(number, setting.rows)
        engine.step(share(engine.world, rows, 2), scale_of(rows, "global"), number, 1e-3, judge)
        if handle is not None:
            handle.remove()
    held = [engine.state.tensor(flat, "w") for flat in range(len(engine.state.flats))]
    return told, all(bool(flat.isfinite().all()) for flat in held)


@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize("name", ["layers.0.table.weight", "layers.1.mlp_norm.weight"])
def test_a_gradient_that_the_norm_does_not_count_is_looked_at(zero: int, name: str) -> None:
    """Of a weight that all tensor ranks have whole the first rank's alone is in the norm."""
    for told, numbers in run(spoilt, 4, varied(tensor=2, zero=zero), 3, name):
        assert told == [True, False]
        assert numbers
