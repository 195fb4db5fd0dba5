"""One loss curve to rounding: a plain torch loop over the whole batch against ranks × layout × micro-batches.

Tolerances: fp32 losses and weights within 2e-5 (sums in another order, through Adam's division), bf16 losses
within 2 %, its own rounding, and its norms, in which a factor would show that Adam hides, within 3 %. The
default is a pairwise cover; `full` runs every cell.
"""

import functools
import shutil
from itertools import product

import numpy as np
import pytest

from tests.support.engine_cases import (
    Setting,
    exchanged_masters,
    reference,
    run_setting,
    train_and_evaluate,
    varied,
)
from tests.support.layouts import WHOLE, cover
from tests.support.ranks import run

FP32, BF16 = ([(cell.zero, cell.offload) for cell in WHOLE if cell.precision == p] for p in ("fp32", "bf16"))
MATRIX = [
    (ranks, *cell, micro_batch, normalise)
    for ranks, cell, micro_batch, normalise in product((1, 2, 4), FP32, (1, 2), ("global", "objective"))
]
MATRIX_BF16 = [(ranks, *cell) for ranks, cell in product((1, 2), BF16)]
COVER, COVER_BF16 = cover(MATRIX), cover(MATRIX_BF16)


@functools.cache
def expected(normalise: str) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    return reference(varied(normalise=normalise))


def check(ranks: int, setting: Setting) -> None:
    losses, norms, weights = expected(setting.normalise)
    for found_losses, found_norms, found_weights in run(run_setting, ranks, setting):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-5)
        np.testing.assert_allclose(found_norms, norms, rtol=2e-4)
        for name, weight in weights.items():
            np.testing.assert_allclose(found_weights[name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("ranks", "zero", "offload", "micro_batch", "normalise"), COVER)
def test_a_layout_agrees_with_plain_torch(
    ranks: int, zero: int, offload: str, micro_batch: int, normalise: str
) -> None:
    check(ranks, varied(zero=zero, offload=offload, micro_batch=micro_batch, normalise=normalise))


@pytest.mark.full
@pytest.mark.parametrize(
    ("ranks", "zero", "offload", "micro_batch", "normalise"), [row for row in MATRIX if row not in COVER]
)
def test_every_layout_agrees_with_plain_torch(
    ranks: int, zero: int, offload: str, micro_batch: int, normalise: str
) -> None:
    check(ranks, varied(zero=zero, offload=offload, micro_batch=micro_batch, normalise=normalise))


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


def check_bf16(ranks: int, zero: int, offload: str) -> None:
    losses, norms, _ = expected("global")
    setting = varied(zero=zero, precision="bf16", offload=offload)
    for found_losses, found_norms, _ in run(run_setting, ranks, setting, timeout=120):
        np.testing.assert_allclose(found_losses, losses, rtol=2e-2)
        np.testing.assert_allclose(found_norms, norms, rtol=3e-2)


@pytest.mark.parametrize(("ranks", "zero", "offload"), COVER_BF16)
def test_bf16_agrees_within_its_rounding(ranks: int, zero: int, offload: str) -> None:
    check_bf16(ranks, zero, offload)


@pytest.mark.full
@pytest.mark.parametrize(("ranks", "zero", "offload"), [row for row in MATRIX_BF16 if row not in COVER_BF16])
def test_every_layout_in_bf16_agrees_within_its_rounding(ranks: int, zero: int, offload: str) -> None:
    check_bf16(ranks, zero, offload)


@pytest.mark.parametrize(("zero", "offload"), FP32)
def test_masters_that_lie_elsewhere_than_the_map_says_are_noticed(zero: int, offload: str) -> None:
    """As a release of DeepSpeed with another layout would have it; the right map passes, after two steps."""
    told = run(exchanged_masters, 1, varied(zero=zero, offload=offload, steps=2))[0]
    assert "is not its rounded master" in told
