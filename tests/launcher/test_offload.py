"""An optimizer on the host changes where things lie: not the numbers, not what a checkpoint is.

Without a GPU all is host here: these tests show the arithmetic, the map and DeepSpeed's paths; copies between
devices are tests/gpu/test_gpu.py's.
"""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.checkpoint.format import KINDS, step_name
from launcher.checkpoint.load import load
from launcher.checkpoint.read import StoredCheckpoint
from launcher.distributed.world import World
from launcher.engine.footprint import host_bytes
from launcher.engine.layout import LayoutCell
from tests.support.engine_cases import (
    checkpoints,
    make_engine,
    tensors,
    train,
    train_and_save,
    varied,
)
from tests.support.layouts import WHOLE, keys
from tests.support.ranks import run

PAIRS = list(permutations(range(len(WHOLE)), 2))
OFFLOADED = [cell for cell in WHOLE if cell.offload == "optimizer"]


def trained(world: World, cells: list[LayoutCell], micro_batch: int) -> list[dict[str, Any]]:
    """Each cell by an engine of its own: what it trained to, and whether DeepSpeed says that it offloads."""
    found = []
    for cell in cells:
        setting = varied(**keys(cell), micro_batch=micro_batch)
        engine = make_engine(world, setting)
        losses, norms = train(engine, setting)
        offloads = engine._deepspeed.zero_use_cpu_optimizer()
        found.append({"losses": losses, "norms": norms, "after": tensors(engine), "offloads": offloads})
        engine.close()
    return found


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("cell", OFFLOADED, ids=str)
def test_the_numbers_are_those_of_the_same_layout_on_the_device(cell: LayoutCell, micro_batch: int) -> None:
    """To the rounding of a norm that is added up in another order; in bf16 that can tip the rounding of a
    weight, by 2⁻⁸ of it, and with it later losses."""
    half = cell.precision == "bf16"
    for offloaded, plain in run(trained, 2, [cell, cell._replace(offload="none")], micro_batch):
        assert (offloaded["offloads"], plain["offloads"]) == (True, False)
        np.testing.assert_allclose(offloaded["losses"], plain["losses"], rtol=2e-4 if half else 1e-6)
        np.testing.assert_allclose(offloaded["norms"], plain["norms"], rtol=2e-3 if half else 1e-6)
        for (name, kind), tensor in plain["after"].items():
            limit = {"w": 2**-9, "exp_avg": 2**-12, "exp_avg_sq": 2**-16}[kind] if half else 1e-6
            found = offloaded["after"][name, kind]
            np.testing.assert_allclose(found, tensor, rtol=0, atol=limit, err_msg=f"{name} {kind}")


def on_the_host(world: World, cell: LayoutCell) -> tuple[int, int]:
    """After a step of several micro-batches: bytes of what DeepSpeed keeps on the host for this rank, but for
    a buffer of the largest parameter; and the parameters of the model."""
    setting = varied(**keys(cell), micro_batch=1, steps=1)
    engine = make_engine(world, setting)
    train(engine, setting)
    state, optimizer = engine.state, engine._deepspeed.optimizer
    flats = range(len(state.flats))
    held = [state.tensor(flat, kind) for flat in flats for kind in KINDS]
    held += [gradient for flat in state.flats if (gradient := flat.grad) is not None]
    held += getattr(optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", [])
    held += getattr(optimizer, "accumulated_grads_in_cpu", {}).values()
    held += [optimizer.grad_partitions_flat_buffer] if cell.zero == 3 else []
    assert all(tensor.device.type == "cpu" for tensor in held)
    parameters = sum(p.ds_numel if cell.zero == 3 else p.numel() for p in engine.model.parameters())
    return sum(tensor.untyped_storage().nbytes() for tensor in held), parameters


@pytest.mark.parametrize("cell", OFFLOADED, ids=str)
def test_what_check_says_of_the_host_is_what_lies_there(cell: LayoutCell) -> None:
    """5 %: parts are filled up to a multiple of the ranks, and a parameter on two ranks is summed on both."""
    for ranks in (1, 2):
        for held, parameters in run(on_the_host, ranks, cell):
            assert held == pytest.approx(host_bytes(cell) * parameters / ranks, rel=0.05)


def save_each(world: World, cells: list[LayoutCell], folder: Path) -> list[dict]:
    """Each cell trains two steps and saves, in a folder of its own: what it held."""
    held = []
    for number, cell in enumerate(cells):
        setting = varied(**keys(cell))
        engine = make_engine(world, setting)
        train(engine, setting, 1, 2)
        if world.rank == 0:
            (folder / str(number)).mkdir()
        saves = checkpoints(engine, folder / str(number))
        saves.save(engine, 2, {"step": 2})
        saves.finish()
        held.append(tensors(engine))
        engine.close()
    return held


def load_each(
    world: World, cells: list[LayoutCell], pairs: list[tuple[int, int]], folder: Path
) -> dict[tuple[int, int], tuple[int, dict]]:
    """For each (saved, loading) pair of numbers of cells: Adam's count and what is held before the first
    step. Loading checks that the weights are the rounded masters; the step after it changes them all."""
    held = {}
    for number, cell in enumerate(cells):
        setting = varied(**keys(cell))
        engine = make_engine(world, setting)
        for saved, loading in pairs:
            if loading == number:
                load(world, StoredCheckpoint(folder / str(saved) / step_name(2)), engine.state)
                held[saved, loading] = engine.state.adam_step, tensors(engine)
                train(engine, setting, 3, 3)
        engine.close()
    return held


def taken_up(folder: Path, ranks: tuple[int, int], pairs: list[tuple[int, int]]) -> None:
    """Saved by so many ranks, loaded by so many: bit for bit what was saved."""
    saved = run(save_each, ranks[0], WHOLE, folder, timeout=120)[0]
    loaded = run(load_each, ranks[1], WHOLE, pairs, folder, timeout=300)[0]
    assert set(loaded) == set(pairs)
    for (first, second), (adam, found) in loaded.items():
        assert adam == 2
        for key, tensor in saved[first].items():
            told = f"{WHOLE[first]} → {WHOLE[second]}: {key}"
            np.testing.assert_array_equal(found[key], tensor, err_msg=told)


def test_a_checkpoint_saved_with_is_resumed_without_and_the_reverse(tmp_path: Path) -> None:
    """In every pair of stage and precision."""
    pairs = [(a, b) for a, b in PAIRS if WHOLE[a].offload != WHOLE[b].offload]
    assert len(pairs) == 2 * len(OFFLOADED) * (len(WHOLE) - len(OFFLOADED))
    taken_up(tmp_path, (2, 2), pairs)


@pytest.mark.full
def test_a_checkpoint_of_every_cell_is_resumed_in_every_cell(tmp_path: Path) -> None:
    """On another number of ranks."""
    taken_up(tmp_path, (4, 1), PAIRS)


@pytest.mark.parametrize("cell", OFFLOADED, ids=str)
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, cell: LayoutCell) -> None:
    setting = varied(**keys(cell), steps=4)
    straight, broken = (tmp_path / name for name in ("straight", "broken"))
    straight.mkdir()
    broken.mkdir()
    expected = run(train_and_save, 2, setting, straight, None, 1, 4)[0]
    first = run(train_and_save, 2, setting, broken, None, 1, 2)[0]
    second = run(train_and_save, 2, setting, broken, str(broken / step_name(2)), 3, 4)[0]
    assert first["losses"] + second["losses"] == expected["losses"]
    for key, tensor in expected["after"].items():
        np.testing.assert_array_equal(second["after"][key], tensor, err_msg=str(key))
