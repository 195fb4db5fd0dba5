"""Rows over several ranks: one loss curve to rounding with plain torch, whatever lies across the cut.

Tolerances as in test_engine_parity.py; the norm is compared always, for Adam and clipping hide a factor. The
rows have two segments of all kinds, cut anywhere, so most segments lie on several ranks, and some ranks have
no target. The default has each layout once; `full` runs every cell.
"""

import functools
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from launcher.distributed.mesh import Degrees
from launcher.distributed.world import World
from launcher.engine.layout import LayoutCell
from launcher.engine.parallel.sequence import WHOLE_ROWS, sequence_columns
from model.attention import Kernel, dense
from model.config import ModelConfig
from tests.support.engine_cases import (
    LENGTH,
    MODEL,
    Setting,
    judged_run,
    make_engine,
    reference,
    rows_of,
    run_setting,
    train_and_evaluate,
    varied,
)
from tests.support.layouts import CELLS, keys, ranks_of
from tests.support.ranks import run

FOUR = replace(MODEL, heads=4)
MODELS = {
    "4 kv": FOUR,
    "2 kv": replace(FOUR, kv_heads=2, qk_norm=True),
    "1 kv": replace(FOUR, kv_heads=1, attention="dense"),
    "learned": replace(FOUR, kv_heads=2, positions="learned", norm="layer", tie_embeddings=False),
    "post": replace(FOUR, norm_placement="post", activation="gelu", z_loss=1e-3),
    "3 kv": replace(MODEL, heads=6, kv_heads=3, width=24),
}
SPREAD = {"SP2": (2, 2, 1), "SP4": (4, 4, 1), "SP2×DP2": (4, 2, 1), "PP2×SP2": (4, 2, 2)}
"""Ranks, sequence, pipeline."""


def fits(spread: str, zero: int, model: str) -> bool:
    """Four ranks cannot share six heads, and a pipeline divides neither gradients nor weights."""
    return (spread, model) != ("SP4", "3 kv") and (spread != "PP2×SP2" or zero < 2)


MATRIX = [
    (spread, zero, model, normalise, checkpointing)
    for spread, zero, model, normalise, checkpointing in product(
        SPREAD, range(4), MODELS, ("global", "objective"), (False, True)
    )
    if fits(spread, zero, model)
]
COVER = [
    ("SP2", 0, "3 kv", "objective", True),
    ("SP2", 1, "2 kv", "global", False),
    ("SP2", 2, "1 kv", "objective", False),
    ("SP2", 3, "learned", "global", True),
    ("SP4", 0, "post", "global", False),
    ("SP4", 1, "4 kv", "objective", True),
    ("SP4", 2, "2 kv", "global", True),
    ("SP4", 3, "1 kv", "global", False),
    ("SP2×DP2", 0, "4 kv", "global", True),
    ("SP2×DP2", 1, "3 kv", "objective", False),
    ("SP2×DP2", 2, "learned", "global", False),
    ("SP2×DP2", 3, "post", "objective", True),
    ("PP2×SP2", 0, "2 kv", "objective", False),
    ("PP2×SP2", 1, "learned", "global", True),
]
"""Each layout once; what the model is, ZeRO does not see."""
BF16 = [(spread, zero) for spread, zero in product(SPREAD, (1, 2, 3)) if fits(spread, zero, "4 kv")]
COVER_BF16 = [("SP2", 2), ("SP4", 3), ("SP2×DP2", 1), ("PP2×SP2", 1)]


def spread_over(spread: str, **changes: Any) -> tuple[int, Setting]:
    ranks, sequence, pipeline = SPREAD[spread]
    return ranks, varied(**{"model": FOUR} | changes, sequence=sequence, pipeline=pipeline)


@functools.cache
def expected(model: ModelConfig, normalise: str) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Without z_loss, which the sums leave out by design, in what is reported."""
    return reference(varied(model=model, normalise=normalise))


def check(spread: str, zero: int, model: str, normalise: str, checkpointing: bool) -> None:
    ranks, setting = spread_over(
        spread,
        zero=zero,
        model=MODELS[model],
        normalise=normalise,
        activation_checkpointing=checkpointing,
        micro_batch=1 if checkpointing else 2,
    )
    losses, norms, weights = expected(setting.model, normalise)
    for found_losses, found_norms, found_weights in run(run_setting, ranks, setting, timeout=120):
        if not setting.model.z_loss:
            np.testing.assert_allclose(found_losses, losses, rtol=2e-5)
        np.testing.assert_allclose(found_norms, norms, rtol=2e-5)
        for name, weight in weights.items():
            np.testing.assert_allclose(found_weights[name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("spread", "zero", "model", "normalise", "checkpointing"), COVER)
def test_rows_over_ranks_agree_with_plain_torch(
    spread: str, zero: int, model: str, normalise: str, checkpointing: bool
) -> None:
    check(spread, zero, model, normalise, checkpointing)


@pytest.mark.full
@pytest.mark.parametrize(
    ("spread", "zero", "model", "normalise", "checkpointing"), [row for row in MATRIX if row not in COVER]
)
def test_rows_over_ranks_agree_in_every_cell(
    spread: str, zero: int, model: str, normalise: str, checkpointing: bool
) -> None:
    check(spread, zero, model, normalise, checkpointing)


def check_bf16(spread: str, zero: int, offload: str = "none") -> None:
    losses, norms, _ = expected(FOUR, "global")
    ranks, setting = spread_over(spread, zero=zero, precision="bf16", offload=offload)
    for found_losses, found_norms, _ in run(run_setting, ranks, setting, timeout=120):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-2)
        np.testing.assert_allclose(found_norms, norms, rtol=3e-2)


@pytest.mark.parametrize(("spread", "zero"), COVER_BF16)
def test_rows_over_ranks_in_bf16_agree_within_its_rounding(spread: str, zero: int) -> None:
    check_bf16(spread, zero)


@pytest.mark.full
@pytest.mark.parametrize(("spread", "zero"), [row for row in BF16 if row not in COVER_BF16])
def test_rows_over_ranks_in_bf16_agree_in_every_cell(spread: str, zero: int) -> None:
    check_bf16(spread, zero)


@pytest.mark.parametrize(
    ("precision", "zero"),
    [("fp32", 2)]
    + [
        pytest.param(precision, zero, marks=pytest.mark.full)
        for precision, zero in [("fp32", 1), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]
    ],
)
def test_an_offloaded_optimizer_knows_nothing_of_it(precision: str, zero: int) -> None:
    if precision == "bf16":
        return check_bf16("SP2", zero, "optimizer")
    losses, norms, _ = expected(FOUR, "global")
    ranks, setting = spread_over("SP2", zero=zero, offload="optimizer")
    for found_losses, found_norms, _ in run(run_setting, ranks, setting, timeout=120):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-5)
        np.testing.assert_allclose(found_norms, norms, rtol=2e-5)
    return None


CUT = [cell for cell in CELLS if cell.sequence]
JUDGED = LayoutCell("bf16", 1, pipeline=True, sequence=True)


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell == JUDGED else pytest.mark.full) for cell in CUT], ids=str
)
def test_a_refused_step_leaves_no_trace_where_rows_are_cut(cell: LayoutCell) -> None:
    setting = varied(**keys(cell), micro_batch=2, rows=8, steps=2)
    ranks = ranks_of(cell)
    (straight, *_) = run(judged_run, ranks, setting, frozenset())
    for found in run(judged_run, ranks, setting, frozenset({1, 2}), (ranks - 1, np.nan)):
        assert (found["told"], found["adam"]) == (straight["told"], straight["adam"])
        for name, tensor in straight["after"].items():
            assert np.array_equal(found["after"][name], tensor), name


def evaluated(world: World, setting: Setting, heights: list[int]) -> list[np.ndarray]:
    """The case: the four sums over micro-batches of these heights, over all ranks; data ranks but the first
    bring none, so in ZeRO 3 they run blank ones."""
    engine = make_engine(world, setting)
    rows = [rows_of(9 + number, height) for number, height in enumerate(heights)]
    found = engine.evaluate(rows if engine.world.mesh.data.is_first else [])
    return [engine.reduce(part.ravel()) for part in (found.sums, found.weights, found.targets, found.correct)]


@pytest.mark.parametrize(("spread", "zero"), [("SP2×DP2", 3), ("PP2×SP2", 1), ("SP4", 2)])
def test_an_evaluation_counts_every_column_once(spread: str, zero: int) -> None:
    heights = [3, 2]
    ranks, setting = spread_over(spread, zero=zero)
    (alone,) = run(evaluated, 1, varied(model=FOUR), heights)
    for found in run(evaluated, ranks, setting, heights):
        np.testing.assert_allclose(found[0], alone[0], rtol=1e-5)
        np.testing.assert_allclose(found[1], alone[1])
        np.testing.assert_array_equal(found[2:], alone[2:])


@pytest.mark.full
def test_compiled_blocks_exchange_as_plain_ones() -> None:
    plain, compiled = (
        run(train_and_evaluate, 2, varied(model=FOUR, sequence=2, compile=compile_), (3, 1), timeout=400)[0]
        for compile_ in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=2e-6)


def attended(world: World, kv_heads: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The case: attention over packed rows, and the gradients of q, k, v; each by whole rows on this rank and
    by parts of them, of which the other ranks' are fetched. What comes in has permuted strides."""
    generator = torch.Generator().manual_seed(0)
    rows = rows_of(1, 3)
    kernel = dense(torch.from_numpy(rows.start), torch.from_numpy(rows.bound))
    columns = sequence_columns(replace(world, degrees=Degrees(sequence=world.size)))
    shape = (4, 12, LENGTH, 3)  # of the gradient, before it is permuted
    slope = torch.randn(shape, generator=generator).permute(3, 2, 1, 0)
    whole = [torch.randn(3, LENGTH, heads, 4, generator=generator) for heads in (12, kv_heads, kv_heads)]

    def results(attend: Kernel, leaves: list[torch.Tensor], slope: torch.Tensor) -> list[torch.Tensor]:
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        seen = attend(*leaves, 0.0)
        return [seen.detach(), *torch.autograd.grad(seen, leaves, slope)]

    straight = results(kernel, whole, slope)
    parts = results(columns.over_rows(kernel), [columns.cut(x) for x in whole], columns.cut(slope))
    return [(one.numpy(), _together(part, world.size)) for one, part in zip(straight, parts, strict=True)]


def _together(part: torch.Tensor, ranks: int) -> np.ndarray:
    parts = [torch.empty(part.shape) for _ in range(ranks)]
    distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim=1).numpy()


@pytest.mark.parametrize(("ranks", "kv_heads"), [(2, 3), (4, 2), (3, 4), (4, 12)])
def test_attention_by_parts_is_attention_over_whole_rows(ranks: int, kv_heads: int) -> None:
    """To rounding: gradients of copied heads are added up in another order."""
    for found in run(attended, ranks, kv_heads):
        for straight, parts in found:
            np.testing.assert_allclose(parts, straight, rtol=1e-5, atol=1e-6)


def test_columns_are_equal_runs_and_one_rank_has_all() -> None:
    whole = torch.arange(12).view(2, 6)
    assert torch.equal(WHOLE_ROWS.cut(whole), whole)
    kernel = dense(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32))
    assert WHOLE_ROWS.over_rows(kernel) is kernel
