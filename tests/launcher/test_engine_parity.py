"""One loss curve to rounding: a plain torch loop over the whole batch against every layout, in every recipe.

    layout      ranks × ZeRO, offload, pipeline, …          tests/support/layouts.py: FP32, BF16
    recipe      activation checkpointing × tied or not × both normalisations; micro-batches of 1 and 2

All seven objectives, with very unequal numbers of targets: of each step the loss of each objective and the
norm of the gradient, in which a factor shows that Adam hides; at the end the weights.

Tolerances: fp32 losses and weights within 2e-5 (sums in another order, through Adam's division), norms, which
no update has gone through in the first step, 2e-5 too; bf16 losses within 2 %, its own rounding, norms 3 %.
The default is a pairwise cover; `full` runs every cell.
"""

import functools
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from model.config import ModelConfig
from tests.support.engine_cases import (
    MODEL,
    Setting,
    Trained,
    exchanged_masters,
    reference,
    run_setting,
    train_and_evaluate,
    varied,
)
from tests.support.layouts import BF16, FP32, RECIPES, WHOLE, Placed, cover
from tests.support.ranks import run

MATRIX = [(placed, *recipe) for placed, recipe in product(FP32, RECIPES)]
KEYS = ("zero", "offload", "pipeline", "sequence", "tensor")
FACTORS = {
    (placed.ranks, *(placed.layout.get(key) for key in KEYS), *recipe): (placed, *recipe)
    for placed, *recipe in MATRIX
}
COVER = [FACTORS[row] for row in cover(list(FACTORS))]
"""Every two values of keys, ranks and recipe that meet in any cell."""


def setting_of(placed: Placed, checkpointing: bool, tied: bool, normalise: str, **changes: str) -> Setting:
    """A cell. Micro-batches are of 1 row and of 2, either in half of a layout's cells."""
    model = replace(MODEL, layers=4 if "pipeline" in placed.layout else 2, tie_embeddings=tied)
    micro_batch = 1 + (checkpointing ^ tied)
    recipe = {"activation_checkpointing": checkpointing, "normalise": normalise, "model": model}
    return varied(**placed.layout, **recipe, micro_batch=micro_batch, **changes)


@functools.cache
def expected(model: ModelConfig, normalise: str) -> Trained:
    """The plain loop's."""
    return reference(varied(model=model, normalise=normalise))


def check(placed: Placed, checkpointing: bool, tied: bool, normalise: str) -> None:
    setting = setting_of(placed, checkpointing, tied, normalise)
    losses, norms, weights = expected(setting.model, normalise)
    for found_losses, found_norms, found_weights in run(run_setting, placed.ranks, setting):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(found_norms, norms, rtol=2e-5)
        assert found_weights.keys() == weights.keys()
        for name, weight in weights.items():
            np.testing.assert_allclose(found_weights[name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("placed", "checkpointing", "tied", "normalise"), COVER, ids=str)
def test_a_layout_agrees_with_plain_torch(
    placed: Placed, checkpointing: bool, tied: bool, normalise: str
) -> None:
    check(placed, checkpointing, tied, normalise)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_rank_may_have_nothing_but_blank_rows(zero: int) -> None:
    """Their positions see themselves alone, so attention needs no queries and keys; the gains of qk_norm must
    have a gradient on every rank all the same, or ranks reduce different ones."""
    setting = varied(zero=zero, rows=1, steps=2, model=replace(MODEL, qk_norm=True))
    losses, norms, _ = reference(setting)
    for found_losses, found_norms, _ in run(run_setting, 2, setting):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(found_norms, norms, rtol=2e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    ("placed", "checkpointing", "tied", "normalise"), [row for row in MATRIX if row not in COVER], ids=str
)
def test_every_layout_agrees_with_plain_torch(
    placed: Placed, checkpointing: bool, tied: bool, normalise: str
) -> None:
    check(placed, checkpointing, tied, normalise)


@pytest.mark.parametrize("placed", BF16, ids=str)
def test_bf16_agrees_within_its_rounding(placed: Placed) -> None:
    setting = setting_of(placed, False, True, "global", precision="bf16")
    losses, norms, _ = expected(setting.model, "global")
    for found_losses, found_norms, _ in run(run_setting, placed.ranks, setting, timeout=120):
        np.testing.assert_allclose(np.sum(found_losses, axis=1), np.sum(losses, axis=1), rtol=2e-2)
        np.testing.assert_allclose(found_norms, norms, rtol=3e-2)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("zero", [1, 3])
def test_compiled_blocks_agree_in_training_and_in_evaluation(zero: int) -> None:
    """A minute each, nearly all of it the compiler's."""
    plain, compiled = (
        run(train_and_evaluate, 1, varied(zero=zero, compile=compile_), (3, 5, 1), timeout=300)[0]
        for compile_ in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=2e-6)


@pytest.mark.parametrize(
    ("zero", "offload"), [(cell.zero, cell.offload) for cell in WHOLE if cell.precision == "fp32"]
)
def test_masters_that_lie_elsewhere_than_the_map_says_are_noticed(zero: int, offload: str) -> None:
    """As a release of DeepSpeed with another layout would have it; the right map passes, after two steps."""
    told = run(exchanged_masters, 1, varied(zero=zero, offload=offload, steps=2))[0]
    assert "is not its rounded master" in told
