"""The average of the weights: its formula, its way through checkpoints and layouts, and its evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher.checkpoint.format import MANIFEST, step_name, weights_name
from launcher.checkpoint.load import load, read_weights
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import Retention
from launcher.distributed.world import World
from launcher.engine.ema import EmaConfig, WeightAverage, weight_average
from launcher.engine.engine import Engine
from launcher.engine.forward import PlainModel
from tests.support.engine_cases import (
    Setting,
    build,
    checkpoints,
    make_engine,
    rows_of,
    tensors,
    train,
    varied,
)
from tests.support.ranks import run

DECAY = 0.8
Tensors = dict[tuple[str, str], np.ndarray]


def averaged(world: World, setting: Setting, every: int = 1) -> tuple[Engine, WeightAverage]:
    """An engine and the average of its weights, begun."""
    engine = make_engine(world, setting)
    average = WeightAverage(engine.state, DECAY, every)
    average.restart()
    return engine, average


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """What the model computes with."""
    return {name: weight.float().cpu().numpy().copy() for name, weight in engine.each_weight()}


def followed(world: World, setting: Setting, every: int) -> list[Tensors]:
    """Every tensor before the first step and after each."""
    engine, average = averaged(world, setting, every)
    found = [tensors(engine)]
    for step in range(1, setting.steps + 1):
        train(engine, setting, step, step)
        average.update(step)
        found.append(tensors(engine))
    return found


@pytest.mark.parametrize(
    ("ranks", "zero", "precision", "every"),
    [
        (1, 0, "fp32", 1),
        (2, 3, "fp32", 3),
        *(
            pytest.param(*cell, marks=pytest.mark.full)
            for cell in [(2, 1, "fp32", 2), (2, 2, "bf16", 1), (4, 3, "bf16", 1), (2, 1, "bf16", 1)]
        ),
    ],
)
def test_it_is_the_formula(ranks: int, zero: int, precision: str, every: int) -> None:
    """decay^every at each update that is due; nothing in between."""
    setting = varied(zero=zero, precision=precision, steps=7)
    found = run(followed, ranks, setting, every)[0]
    for name in {name for name, _ in found[0]}:
        expected = found[0][name, "w"].astype(np.float64)
        for step, after in enumerate(found):
            if step and step % every == 0:
                expected += (1 - DECAY**every) * (after[name, "w"] - expected)
            np.testing.assert_allclose(after[name, "ema"], expected, rtol=0, atol=5e-7, err_msg=name)
        assert np.abs(found[-1][name, "ema"] - found[-1][name, "w"]).max() > 1e-4, "it is no copy"


def evaluated(world: World, setting: Setting, look: bool) -> dict[str, Any]:
    """Three steps; with `look` an evaluation of the average; two more."""
    engine, average = averaged(world, setting)
    for step in range(1, 4):
        train(engine, setting, step, step)
        average.update(step)
    found: dict[str, Any] = {"before": tensors(engine), "weights_before": weights(engine)}
    if look:
        with average.in_place():
            found["weights_within"] = weights(engine)
            own = rows_of(9, 4)[np.arange(world.rank, 4, world.size)]
            found["sums"] = engine.reduce(engine.evaluate([own]).sums.ravel())
            found["within"] = tensors(engine)
    found |= {"after": tensors(engine), "weights_after": weights(engine)}
    found["losses"] = train(engine, setting, 4, 5)
    found["end"] = tensors(engine)
    return found


def same(found: dict[Any, np.ndarray], expected: dict[Any, np.ndarray]) -> None:
    """The same arrays under the same names, bit for bit."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=str(name))


@pytest.mark.parametrize(
    ("ranks", "zero", "precision", "offload"),
    [
        (2, 1, "bf16", "none"),
        (2, 3, "bf16", "none"),
        *(
            pytest.param(*cell, marks=pytest.mark.full)
            for cell in [
                (1, 0, "fp32", "none"),
                (2, 2, "fp32", "none"),
                (2, 2, "bf16", "optimizer"),
                (2, 3, "bf16", "optimizer"),
                (4, 3, "fp32", "none"),
            ]
        ),
    ],
)
def test_evaluating_it_leaves_no_trace(ranks: int, zero: int, precision: str, offload: str) -> None:
    """Within, the model's weights are the rounded average, and the sums those of a plain model with it; after
    it every master, moment, average and weight is what it was, and so are the next steps."""
    setting = varied(zero=zero, precision=precision, steps=5, offload=offload)
    looked = run(evaluated, ranks, setting, True)[0]
    straight = run(evaluated, ranks, setting, False)[0]
    same(looked["after"], looked["before"])
    same(looked["weights_after"], looked["weights_before"])
    same(looked["end"], straight["end"])
    assert looked["losses"] == straight["losses"]
    model = build()
    for name, parameter in model.named_parameters():
        average = torch.from_numpy(looked["before"][name, "ema"])
        np.testing.assert_array_equal(looked["within"][name, "w"], average.numpy())
        np.testing.assert_array_equal(looked["within"][name, "ema"], looked["before"][name, "w"])
        rounded = average.to(torch.bfloat16).float() if precision == "bf16" else average
        np.testing.assert_array_equal(looked["weights_within"][name], rounded.numpy())
        parameter.data.copy_(rounded)
    expected = PlainModel(model).evaluate([rows_of(9, 4)]).sums.ravel()
    np.testing.assert_allclose(looked["sums"], expected, rtol=1e-5 if precision == "fp32" else 2e-2)
    other = PlainModel(build()).evaluate([rows_of(9, 4)]).sums.ravel()
    assert np.abs(looked["sums"] - other).max() > 0.1, "other weights give other sums"


def saved_with_average(
    world: World, setting: Setting, folder: Path, load_from: str | None, first: int, last: int
) -> dict[str, Any]:
    """Optionally go on from a checkpoint; steps first … last, each averaged; save."""
    engine, average = averaged(world, setting)
    if load_from:
        load(world, StoredCheckpoint(Path(load_from)), engine.state)
    before = tensors(engine)
    losses = []
    for step in range(first, last + 1):
        losses += train(engine, setting, step, step)[0]
        average.update(step)
    saves = checkpoints(engine, folder, parent={"step": first - 1, "attempt": 1} if load_from else None)
    saves.save(engine, last, {"step": last})
    saves.finish()
    return {"before": before, "losses": losses, "after": tensors(engine)}


def test_it_moves_with_the_layout(tmp_path: Path) -> None:
    """2 ranks ZeRO 1 → 1 rank ZeRO 0 → 4 ranks ZeRO 3 → 2 ranks ZeRO 2, offloaded → 2 ranks ZeRO 1."""
    handed, at = None, None
    for number, (ranks, zero) in enumerate([(2, 1), (1, 0), (4, 3), (2, 2), (2, 1)], 1):
        setting = varied(zero=zero, steps=5, offload="optimizer" if zero == 2 else "none")
        results = run(saved_with_average, ranks, setting, tmp_path, at, number, number)
        if handed is not None:
            for one in results:
                same(one["before"], handed)
        handed, at = results[0]["after"], str(tmp_path / step_name(number))
        assert not np.array_equal(
            handed["layers.1.mlp.up.weight", "ema"], handed["layers.1.mlp.up.weight", "w"]
        )


@pytest.mark.parametrize(
    ("zero", "precision"), [(3, "fp32"), pytest.param(2, "bf16", marks=pytest.mark.full)]
)
def test_the_same_layout_goes_on_bit_for_bit(tmp_path: Path, zero: int, precision: str) -> None:
    setting = varied(zero=zero, precision=precision, steps=4)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    straight = run(saved_with_average, 2, setting, tmp_path / "a", None, 1, 4)[0]
    run(saved_with_average, 2, setting, tmp_path / "b", None, 1, 2)
    at = str(tmp_path / "b" / step_name(2))
    second = run(saved_with_average, 2, setting, tmp_path / "b", at, 3, 4)[0]
    assert straight["losses"][2:] == second["losses"]
    same(second["after"], straight["after"])


def test_it_is_kept_among_weights_alone_and_may_be_passed_over(tmp_path: Path) -> None:
    after = run(saved_with_average, 2, varied(steps=1), tmp_path, None, 1, 1)[0]["after"]
    run(saved_with_average, 2, varied(steps=2), tmp_path, str(tmp_path / step_name(1)), 2, 2)
    run(saved_with_average, 2, varied(steps=3), tmp_path, str(tmp_path / step_name(2)), 3, 3)
    assert Retention(1, lambda _: True, 1).apply(tmp_path, 3, 1, set()) == [step_name(1)]
    bare = StoredCheckpoint(tmp_path / weights_name(1))
    assert (bare.kinds, bare.problems()) == (["w", "ema"], [])
    for kind in bare.kinds:
        whole = {name: torch.empty(shape) for name, shape in bare.shapes.items()}
        read_weights(bare, whole, kind)
        for name, weight in whole.items():
            np.testing.assert_array_equal(weight.numpy(), after[name, kind])
    assert StoredCheckpoint(tmp_path / step_name(3)).manifest["optional"] == ["ema"]
    assert (tmp_path / step_name(3) / MANIFEST).exists()


def test_none_is_kept_unless_the_config_asks_for_one() -> None:
    state: Any = None
    assert weight_average(state, EmaConfig()) is None
