"""One loss curve to rounding: a plain torch loop over the whole batch against ranks × ZeRO × micro-batches.

Tolerances: fp32 losses and weights within 2e-5 (sums in another order, through Adam's division), bf16 losses
within 2 %, its own rounding. The default is a pairwise cover; `full` runs every cell.
"""

import functools
import itertools
import shutil

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
from tests.support.ranks import run

CELLS = list(itertools.product((1, 2, 4), (0, 1, 2, 3), (1, 2), ("global", "objective")))
COVER = [
    (1, 0, 1, "objective"),
    (1, 1, 2, "global"),
    (2, 0, 2, "global"),
    (2, 1, 1, "objective"),
    (2, 2, 2, "objective"),
    (2, 3, 1, "global"),
    (4, 2, 1, "global"),
    (4, 3, 2, "objective"),
]


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


@pytest.mark.parametrize(("ranks", "zero", "micro_batch", "normalise"), COVER)
def test_a_layout_agrees_with_plain_torch(ranks: int, zero: int, micro_batch: int, normalise: str) -> None:
    check(ranks, varied(zero=zero, micro_batch=micro_batch, normalise=normalise))


@pytest.mark.full
@pytest.mark.parametrize(
    ("ranks", "zero", "micro_batch", "normalise"), [cell for cell in CELLS if cell not in COVER]
)
def test_every_layout_agrees_with_plain_torch(
    ranks: int, zero: int, micro_batch: int, normalise: str
) -> None:
    check(ranks, varied(zero=zero, micro_batch=micro_batch, normalise=normalise))


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


@pytest.mark.parametrize(("ranks", "zero"), [(1, 1), (2, 2), (2, 3)])
def test_bf16_agrees_within_its_rounding(ranks: int, zero: int) -> None:
    losses, _, _ = expected("global")
    for found, _, _ in run(run_setting, ranks, varied(zero=zero, precision="bf16"), timeout=120):
        np.testing.assert_allclose(found, losses, rtol=2e-2)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_masters_that_lie_elsewhere_than_the_map_says_are_noticed(zero: int) -> None:
    """As a release of DeepSpeed with another layout would have it; the right map passes, after two steps."""
    told = run(exchanged_masters, 1, varied(zero=zero, steps=2))[0]
    assert "is not its rounded master" in told
