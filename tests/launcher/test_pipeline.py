"""A pipeline's traps: what DeepSpeed's engine does otherwise than asked, or would let pass without a word.

Parity with a plain loop is in test_engine_parity.py, the judge in test_judge.py, whole runs in
tests/whole/test_train_pipeline.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import BadInput
from launcher.config import run_config
from launcher.config.require import require_processes
from launcher.distributed.collectives import gather
from launcher.distributed.mesh import Axis, Degrees, mesh, ranks_along
from launcher.distributed.world import World
from launcher.engine.stages import borders_of, cheapest_borders, stage_costs
from model.accounting import layer_flops
from model.config import ModelConfig
from tests.support.engine_cases import (
    MODEL,
    OPTIMIZER,
    Setting,
    agree,
    make_engine,
    reference,
    rows_of,
    run_setting,
    scale_of,
    share,
    tensors,
    train,
    varied,
)
from tests.support.helpers import TrainingText
from tests.support.ranks import run
from tests.support.training import config

FOUR = replace(MODEL, layers=4)


def staged(**changes: Any) -> Setting:
    return varied(**{"model": FOUR, "pipeline": 2, "zero": 1, "micro_batch": 1} | changes)


def tied_copies(world: World, setting: Setting) -> list[dict[str, Any]]:
    """The case: of each rank its copy of the tied table, and the moments of what it holds of it, after the
    steps; on all ranks."""
    engine = make_engine(world, setting)
    train(engine, setting)
    table = engine.model.named_weights().get("layers.0.table.weight")
    own = {
        "stage": engine.world.mesh.pipeline.rank,
        "weight": None if table is None else table.detach().float().tolist(),
        "moments": sorted(
            (f.offset, engine.state.piece(f, kind).tolist())
            for f in engine.state.held
            if f.name == "layers.0.table.weight"
            for kind in ("exp_avg", "exp_avg_sq")
        ),
    }
    return gather(world, own)


@pytest.mark.parametrize(
    ("ranks", "precision"),
    [(6, "fp32"), *(pytest.param(r, p, marks=pytest.mark.full) for r, p in ((6, "bf16"), (8, "fp32")))],
)
def test_both_copies_of_a_tied_table_stay_equal_bit_for_bit(ranks: int, precision: str) -> None:
    """DeepSpeed's own ties drift apart from three data ranks on."""
    setting = staged(precision=precision, steps=12, rows=ranks)
    (found, *_) = run(tied_copies, ranks, setting, timeout=120)
    weights = [one["weight"] for one in found]
    assert all(weight == weights[0] for weight in weights)
    first, last = (
        [part for one in found if one["stage"] == stage for part in one["moments"]] for stage in (0, 1)
    )
    assert first == last


@pytest.mark.parametrize("zero", [0, 1])
def test_the_norm_counts_a_tied_table_once_and_every_stage(zero: int) -> None:
    """And with ZeRO 0 clipping is by the norm of all stages: a bound that always binds."""
    setting = staged(zero=zero, optimizer=OPTIMIZER.model_copy(update={"grad_clip": 0.01}))
    losses, norms, weights = reference(setting)
    for found_losses, found_norms, found in run(run_setting, 4, setting):
        np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
        np.testing.assert_allclose(found_losses, losses, rtol=2e-5, atol=1e-6)
        for name, weight in weights.items():
            np.testing.assert_allclose(found[name], weight, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("stages", "changes"),
    [
        ([1, 3], {}),
        ([4, 0], {"norm": "layer", "activation": "gelu"}),
        ([2, 2], {"norm_placement": "post", "kv_heads": 1}),
        ([3, 1], {"positions": "learned", "tie_embeddings": False, "qk_norm": True, "z_loss": 1e-3}),
    ],
)
def test_stages_cut_by_hand(stages: list[int], changes: dict[str, Any]) -> None:
    """Also a last stage that is the Head alone."""
    setting = staged(stages=tuple(stages), model=replace(FOUR, **changes))
    _, norms, weights = reference(setting)
    for _, found_norms, found in run(run_setting, 2, setting):
        np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
        for name, weight in weights.items():
            np.testing.assert_allclose(found[name], weight, atol=2e-5, err_msg=name)


def irregular(world: World, setting: Setting, evaluated: bool) -> dict[str, Any]:
    """The case: steps of 3, 1, 2, 4 and 1 micro-batches; between them evaluations of other heights, where the
    second pipeline has fewer rows, or none."""
    engine = make_engine(world, setting)
    sums, losses = [], []
    for step, count in enumerate((3, 1, 2, 4, 1), 1):
        rows = rows_of(step, count * engine.world.mesh.data.size * setting.micro_batch)
        batches = share(engine.world, rows, setting.micro_batch)
        assert len(batches) == count
        result = engine.step(batches, scale_of(rows, "global"), step, 1e-2, agree)
        losses.append(engine.reduce(result.sums.ravel()).tolist())
        if evaluated:
            held = rows_of(50 + step, step)
            own = held[engine.world.mesh.data.rank :: engine.world.mesh.data.size]
            found = engine.evaluate([own[i : i + 3] for i in range(0, len(own), 3)])
            tables = found.sums, found.weights, found.targets, found.correct
            sums.append([engine.reduce(table.ravel()).tolist() for table in tables])
    return {"losses": losses, "sums": sums, "after": tensors(engine)}


def test_micro_batches_and_heights_may_change_and_evaluation_leaves_no_trace() -> None:
    setting = staged(micro_batch=2)
    (alone, *_) = run(irregular, 2, replace(setting, pipeline=1), True)
    for ranks in run(irregular, 4, setting, True), run(irregular, 4, setting, False):
        for found in ranks:
            np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-5, atol=1e-6)
            if found["sums"]:
                np.testing.assert_allclose(found["sums"], alone["sums"], rtol=2e-5, atol=1e-5)
    for name, tensor in found["after"].items():
        assert np.array_equal(ranks[0]["after"][name], tensor), name
    (evaluated, *_), (straight, *_) = run(irregular, 4, setting, True), ranks
    for name, tensor in evaluated["after"].items():
        assert np.array_equal(straight["after"][name], tensor), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_masks_do_not_depend_on_the_stages(checkpointing: bool) -> None:
    """At one number of data ranks; also where blocks run again for their gradients, later than others."""
    model = replace(FOUR, dropout=0.2, attention_dropout=0.2)
    found = [
        run(
            run_setting, ranks, staged(model=model, pipeline=pipeline, activation_checkpointing=checkpointing)
        )[0]
        for ranks, pipeline in ((1, 1), (2, 2), (4, 4))
    ]
    for losses, norms, _ in found[1:]:
        np.testing.assert_allclose(losses, found[0][0], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(norms, found[0][1], rtol=1e-5)


def what_grows(world: World, setting: Setting) -> list[tuple[int, int, int]]:
    """The case: after 2 steps and after 20, what DeepSpeed's timers keep, its groups, and tensors alive."""
    import gc

    from torch.distributed import distributed_c10d

    engine = make_engine(world, setting)
    found = []
    for last in (2, 20):
        for step in range(1 if last == 2 else 3, last + 1):
            train(engine, setting, step, step)
        gc.collect()
        timers = engine._deepspeed.timers.timers.values()
        kept = sum(len(timer.elapsed_records or ()) + len(timer.event_timers) for timer in timers)
        alive = sum(isinstance(one, torch.Tensor) for one in gc.get_objects())
        found.append((kept, len(distributed_c10d._world.pg_map), alive))
    return found


def test_nothing_grows_with_the_steps() -> None:
    for before, after in run(what_grows, 2, staged(steps=20)):
        assert before == after


def test_coordinates() -> None:
    """Tensor ranks are neighbours, then sequence, then data; stages lie farthest apart."""
    degrees = Degrees(pipeline=2, sequence=2, tensor=2)
    found = [mesh(rank, 16, degrees) for rank in range(16)]
    assert len(set(found)) == 16
    assert [m.pipeline.rank for m in found] == [0] * 8 + [1] * 8
    assert [m.data.rank for m in found[:8]] == [0] * 4 + [1] * 4
    assert [m.sequence.rank for m in found[:4]] == [0, 0, 1, 1]
    assert [m.tensor.rank for m in found[:4]] == [0, 1, 0, 1]
    assert [rank for rank, m in enumerate(found) if m.leads] == [0, 4]
    assert ranks_along(16, degrees, "data") == [[a, a + 4] for a in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert ranks_along(16, degrees, "pipeline", "data")[0] == [0, 4, 8, 12]
    assert mesh(5, 7, Degrees()).data == Axis(5, 7)
    with pytest.raises(ValueError, match="12 processes are not a multiple of 8"):
        mesh(0, 12, degrees)


def test_borders_are_the_best_there_are() -> None:
    """Against every way to cut; and the figures of /facts for 1B and 7B models."""
    random = np.random.default_rng(1)
    for _ in range(30):
        layers, stages = int(random.integers(2, 7)), int(random.integers(1, 5))
        if stages > layers + 1:
            continue
        costs = [0.0, *random.integers(1, 9, layers).tolist(), float(random.integers(0, 20))]
        for head_alone in (True, False) if stages <= layers else (True,):
            borders = cheapest_borders(costs, stages, head_alone)
            assert len(borders) == stages + 1
            best = min(
                max(stage_costs(costs, borders_of(blocks)))
                for blocks in np.ndindex(*[layers + 1] * stages)
                if sum(blocks) == layers and 0 not in (blocks[:-1] if head_alone else blocks)
            )
            assert max(stage_costs(costs, borders)) == best
    seven = ModelConfig(layers=32, width=4096, heads=32, mlp_width=11008, max_sequence_length=2048)
    for stages, borders in ((2, (0, 17, 34)), (4, (0, 9, 17, 25, 34))):
        costs = layer_flops(seven, 32_000, 2048)
        found = cheapest_borders(costs, stages, head_alone=True)
        assert max(stage_costs(costs, found)) <= max(stage_costs(costs, borders))


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ({"layout": {"pipeline": 4}}, "layout.pipeline: expected at most 3 stages for model.layers 2, got 4"),
        ({"layout": {"pipeline": 2, "stages": [1, 2]}}, "layout.stages: expected 2 blocks in all"),
        (
            {"layout": {"pipeline": 2, "stages": [2]}},
            "layout.stages: expected the blocks of each of 2 stages",
        ),
        ({"layout": {"pipeline": 2, "stages": [0, 2]}}, "expected a block in each stage but the last"),
        (
            {"layout": {"pipeline": 2, "zero": 2}},
            "with zero 2 and pipeline is not supported: DeepSpeed's pipeline",
        ),
        (
            {"layout": {"pipeline": 2, "stages": [2, 0]}, "model": {"layers": 2, "norm_placement": "post"}},
            "layout.stages: expected a block in the last stage too, for with model.norm_placement post",
        ),
        ({"layout": {"pipeline": 0}}, "layout.pipeline: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(
    text: TrainingText, tmp_path: Any, edits: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput) as caught:
        run_config.build(config(text, tmp_path, **edits), {}, "c.yaml")
    assert line in str(caught.value)


def test_processes_that_do_not_divide_into_stages_are_refused(text: TrainingText, tmp_path: Any) -> None:
    plain = run_config.build(config(text, tmp_path, layout={"pipeline": 2}), {}, "c.yaml")
    require_processes(plain, 24)
    with pytest.raises(BadInput, match="start a multiple of 2"):
        require_processes(plain, 3)
