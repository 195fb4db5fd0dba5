"""A run moves from any layout into any other: weights, moments and average equal before the first step.

Ordered pairs are drawn from every layout in which parity is shown, fp32 and bf16: what one saves after two
steps another loads, tensor by tensor bit for bit, and goes on with: its next loss is that of the one that
stayed, to rounding. Six pairs by default, thirty with `full`.
"""

import random
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.checkpoint.format import step_name
from tests.support.engine_cases import MODEL, Setting, train_and_save, varied
from tests.support.layouts import BF16, FP32, Placed
from tests.support.ranks import run

Place = tuple[Placed, str]
PLACES: list[Place] = [*((placed, "fp32") for placed in FP32), *((placed, "bf16") for placed in BF16)]
PAIRS = random.Random(13).sample(list(permutations(PLACES, 2)), 30)


def setting_of(place: Place, steps: int) -> Setting:
    placed, precision = place
    model = replace(MODEL, layers=4, qk_norm=True)
    return varied(**placed.layout, precision=precision, model=model, steps=steps, optimizer=CONSTANT)


CONSTANT = Setting().optimizer.model_copy(update={"schedule": "constant"})
"""The rate does not depend on how many steps there are to be."""


def trained(place: Place, folder: Path, load_from: Path | None, first: int, last: int) -> dict[str, Any]:
    folder.mkdir()
    source = None if load_from is None else str(load_from)
    return run(train_and_save, place[0].ranks, setting_of(place, last), folder, source, first, last)[0]


def check(pair: tuple[Place, Place], folder: Path) -> None:
    source, target = pair
    saved = trained(source, folder / "saved", None, 1, 2)
    at = folder / "saved" / step_name(2)
    moved = trained(target, folder / "moved", at, 3, 3)
    stayed = trained(source, folder / "stayed", at, 3, 3)
    assert moved["before"].keys() == saved["after"].keys()
    for key, tensor in saved["after"].items():
        np.testing.assert_array_equal(moved["before"][key], tensor, err_msg=str(key))
    assert moved["adam"] == stayed["adam"] == 3
    half = "bf16" in (source[1], target[1])
    np.testing.assert_allclose(
        np.sum(moved["losses"], axis=1), np.sum(stayed["losses"], axis=1), rtol=2e-2 if half else 2e-5
    )


def name(pair: Any) -> str:
    return "->".join(f"{placed}, {precision}" for placed, precision in pair)


@pytest.mark.parametrize("pair", PAIRS[:6], ids=name)
def test_a_run_moves_from_layout_to_layout(tmp_path: Path, pair: tuple[Place, Place]) -> None:
    check(pair, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("pair", PAIRS[6:], ids=name)
def test_a_run_moves_from_every_layout_to_every_layout(tmp_path: Path, pair: tuple[Place, Place]) -> None:
    check(pair, tmp_path)
