"""A start holds no more than its layout keeps: what is built, what is drawn, what a resume leaves undrawn."""

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from launcher.distributed.collectives import gather
from launcher.distributed.process_group import device_of
from launcher.distributed.world import World
from launcher.engine import engine as engine_module
from launcher.engine.deepspeed.construct import construct
from launcher.engine.deepspeed.start import undivided_shape
from launcher.engine.host_memory import host_memory_free
from launcher.engine.layout import LayoutCell, LayoutConfig
from launcher.runs.lineage import merged
from launcher.runs.run_folder import open_run
from launcher.tracking.tracker import Tracker
from launcher.training import assemble
from model import layers
from model.initialise import init_parameter
from model.transformer import TABLE, Transformer
from tests.support.engine_cases import (
    MODEL,
    SEED,
    Setting,
    elements,
    make_engine,
    plain,
    rows_of,
    tensors,
    unfilled_engine,
    varied,
)
from tests.support.helpers import TrainingText
from tests.support.layouts import WHOLE, keys, ranks_of, usual_first
from tests.support.ranks import run
from tests.support.training import config, trainer


def started(world: World, setting: Setting) -> tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The case: how many fragments lie on this rank, each compared with its parameter as drawn alone; and
    name → the whole master and weight."""
    engine = make_engine(world, setting)
    dtype = torch.float32 if setting.precision == "fp32" else torch.bfloat16
    for fragment in engine.state.held:
        name, own = fragment.name, torch.from_numpy(elements(fragment.cut))
        drawn = init_parameter(name, engine.state.shapes[name], setting.model, SEED)
        assert torch.equal(engine.state.piece(fragment, "w"), drawn.view(-1)[own]), fragment
    masters = {name: whole for (name, kind), whole in tensors(engine).items() if kind == "w"}
    found = {}
    for name, weight in engine.each_weight():
        assert weight.dtype == dtype
        found[name] = masters[name], weight.float().numpy().copy()
    return len(engine.state.held), found


@pytest.mark.parametrize("cell", usual_first(), ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_initial_weights_are_those_of_name_and_seed(cell: LayoutCell, tied: bool) -> None:
    model = MODEL if tied else varied_model()
    whole = Transformer(model, 61, ("vocabulary", "vocabulary", "binary"), 2)
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    for held, found in run(started, ranks_of(cell, 2), varied(**keys(cell), model=model)):
        assert held > 1
        assert found.keys() == shapes.keys()
        for name, (master, weight) in found.items():
            drawn = init_parameter(name, shapes[name], model, SEED)
            np.testing.assert_array_equal(master, drawn.numpy(), err_msg=name)
            rounded = drawn if cell.precision == "fp32" else drawn.bfloat16().float()
            np.testing.assert_array_equal(weight, rounded.numpy(), err_msg=name)


def varied_model() -> Any:
    """As different from the usual one as a model can be: two tables, biases, learned positions."""
    return type(MODEL)(
        layers=2,
        width=16,
        heads=2,
        max_sequence_length=MODEL.max_sequence_length,
        tie_embeddings=False,
        positions="learned",
        norm="layer",
        qk_norm=True,
        activation="gelu",
    )


def built(world: World, setting: Setting) -> dict[str, Any]:
    """The case: what stands whole on this rank at the worst moment of a construction, and at its end."""
    made: list[weakref.ref[nn.Parameter]] = []
    most, make = 0, layers.weight

    def elements() -> int:
        return sum(parameter.numel() for ref in made if (parameter := ref()) is not None)

    def counting(*shape: int) -> nn.Parameter:
        nonlocal most
        parameter = make(*shape)
        made.append(weakref.ref(parameter))
        most = max(most, elements())
        return parameter

    layers.weight = counting
    layout = LayoutConfig(zero=setting.zero, precision=setting.precision, offload=setting.offload)
    build = partial(plain, setting.model)
    model = construct(build, setting.optimizer, layout, device_of(world), world.local_rank)
    parameters = list(model.parameters())
    gather(world, None)  # below ZeRO 3 nothing else keeps a rank until the other has joined
    return {
        "most": most,
        "end": elements(),
        "parts": sum(getattr(p, "ds_tensor", p).numel() for p in parameters),
        "largest": max(int(np.prod(undivided_shape(p))) for p in parameters),
        "all": sum(int(np.prod(undivided_shape(p))) for p in parameters),
        "types": {str(p.dtype) for p in parameters},
        "numbers": any(not p.isnan().all() for p in parameters),
        "default": str(torch.get_default_dtype()),
    }


@pytest.mark.parametrize("cell", WHOLE, ids=str)
def test_a_model_is_built_as_its_layout_keeps_it(cell: LayoutCell) -> None:
    for found in run(built, 2, varied(**keys(cell))):
        assert found["types"] == {"torch.float32" if cell.precision == "fp32" else "torch.bfloat16"}
        assert found["default"] == "torch.float32", "what is made later is not of the model's type"
        assert not found["numbers"]
        if cell.zero < 3:
            assert found["most"] == found["end"] == found["all"] == found["parts"]
        else:
            assert found["most"] == found["largest"], "one parameter at a time"
            assert found["end"] == 0
            assert found["all"] / 2 <= found["parts"] <= found["all"] / 2 + 16


def drawn_bytes(world: World, setting: Setting) -> tuple[int, int, int, list[str]]:
    """The case: bytes that were drawn and alive at once, those of the largest parameter and of all that this
    rank holds a fragment of, and their names in the order of drawing."""
    alive = most = 0
    names: list[str] = []
    draw = engine_module.init_parameter

    def counting(name: str, *rest: Any) -> torch.Tensor:
        """As many bytes as the parameter has are alive until nothing refers to their memory any more."""
        nonlocal alive, most
        array = draw(name, *rest).numpy().copy()
        alive += array.nbytes
        most = max(most, alive)
        names.append(name)
        weakref.finalize(array, freed, array.nbytes)
        return torch.from_numpy(array)

    def freed(size: int) -> None:
        nonlocal alive
        alive -= size

    engine_module.init_parameter = counting
    engine = make_engine(world, setting)
    assert alive == 0
    sizes = [4 * int(np.prod(shape)) for shape in engine.state.shapes.values()]
    assert names == list(dict.fromkeys(fragment.name for fragment in engine.state.held))
    return most, max(sizes), sum(sizes), names


@pytest.mark.parametrize("cell", usual_first(), ids=str)
def test_one_parameter_is_drawn_at_a_time(cell: LayoutCell) -> None:
    setting = varied(**keys(cell))
    found = run(drawn_bytes, ranks_of(cell, 2), setting)
    for most, largest, whole, _ in found:
        assert most <= largest < whole / 3
    drawn = [set(names) for *_, names in found]
    first, last = drawn[0], drawn[-1]
    assert len(set.union(*drawn)) == 15
    if cell.pipeline:  # a stage is half of the ranks
        half = len(drawn) // 2
        stages = [set.union(*drawn[:half]), set.union(*drawn[half:])]
        assert stages[0] & stages[1] == {TABLE}, "tied"
    elif cell.zero in (1, 2) and not cell.tensor:  # one flat is cut in two: both draw what lies on the cut
        assert len(first & last) <= 2
    else:
        assert first == last


def unfilled(world: World, setting: Setting) -> float:
    """The case: the loss of an engine whose weights nobody filled."""
    engine = unfilled_engine(world, setting)
    return float(engine.evaluate([rows_of(1, 2)]).sums.sum())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_forgotten_fill_is_no_number(zero: int) -> None:
    (loss,) = run(unfilled, 1, varied(zero=zero))
    assert np.isnan(loss)


def counted_start(world: World, plain_config: dict[str, Any], fresh: bool) -> tuple[int, int, Any]:
    """The case: a start of a run; its exit code, how many parameters were drawn, what it began with."""
    count, draw = 0, engine_module.init_parameter

    def counting(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return draw(*arguments)

    engine_module.init_parameter = counting
    left = trainer(world, plain_config, fresh=fresh, tensors=True)
    return left.code, count, left.loaded


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_resume_draws_nothing(text: TrainingText, tmp_path: Path, zero: int) -> None:
    layout = {"zero": zero, "micro_batch": 2}
    begun = config(text, tmp_path, steps=2, layout=layout)
    for code, drawn, _ in run(counted_start, 2, begun, True, timeout=120):
        assert (code, drawn > 1) == (0, True)
    for code, drawn, loaded in run(counted_start, 2, begun | {"steps": 3}, False, timeout=120):
        assert (code, drawn) == (0, 0)
        assert all(np.isfinite(whole).all() for whole in loaded.values())
        assert any(whole.any() for (_, kind), whole in loaded.items() if kind == "exp_avg")


def sampled(world: World, plain_config: dict[str, Any], free: int) -> tuple[int, int, list[str]]:
    """The case: a start on whose rank 0 the host has so many bytes free; its exit code, how many plain models
    it built beside the engine's, and what it noted for the reader."""
    count, build, notes = 0, assemble.plain_model, list[str]()

    def counting(*arguments: Any) -> Transformer:
        nonlocal count
        count += 1
        return build(*arguments)

    assemble.plain_model = counting
    assemble.host_memory_free = lambda: free if world.rank == 0 else pytest.fail("rank 0 decides")
    Tracker.note = lambda _tracker, line: notes.append(line)  # type: ignore[method-assign]
    left = trainer(world, plain_config, fresh=True)
    return left.code, count, notes


@pytest.mark.parametrize("zero", [1, 3])
def test_samples_are_left_out_where_a_whole_model_does_not_fit(
    text: TrainingText, tmp_path: Path, zero: int
) -> None:
    samples = {"prompts": ["def ", "class "], "tokens": 4}
    asked = config(
        text,
        tmp_path,
        steps=2,
        layout={"zero": zero, "micro_batch": 2},
        eval={"every": 1, "bytes": 1_000, "samples": samples},
    )
    refused, told = run(sampled, 2, asked, 1 << 16, timeout=120)
    run_path = tmp_path / "run"
    assert refused[:2] == told[:2] == (0, 0)
    (line,) = [line for line in refused[2] if "no samples" in line]
    assert line.startswith("no samples: they need the whole model on the host of rank 0, ")
    assert f"of the 64.0 KiB that are free there; 'headrace generate {run_path} PROMPT'" in line
    assert "\n" not in line
    lines = merged(open_run(run_path))
    assert len([line for line in lines if "eval" in line]) == 3
    assert not any("samples" in line for line in lines)

    fits = asked | {"run": {"name": "fits", "folder": str(tmp_path)}}
    (code, built_by_first, _), (_, built_by_other, _) = run(sampled, 2, fits, 1 << 30, timeout=120)
    assert (code, built_by_first, built_by_other) == (0, 1, 0)
    texts = [line["samples"] for line in merged(open_run(tmp_path / "fits")) if "samples" in line]
    assert [[one["prompt"] for one in at] for at in texts] == [["def ", "class "]] * 3


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/\n", {}, 8 << 30),
        ("0::/job/step\n", {"job": ("5368709120", 1 << 30, 1 << 20)}, (4 << 30) + (1 << 20)),
        ("0::/job/step\n", {"job": ("max", 1 << 30, 0), "job/step": ("2147483648", 5, 5)}, 2 << 30),
        ("0::/elsewhere\n", {"": ("1073741824", 1 << 20, 0)}, (1 << 30) - (1 << 20)),
        ("0::/job\n", {"job": ("9223372036854771712", 1 << 30, 0)}, 8 << 30),
    ],
)
def test_what_the_host_can_give_is_bounded_by_its_groups(
    tmp_path: Path, groups: str, files: dict[str, tuple[str, int, int]], free: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, (bound, use, inactive) in files.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{bound}\n")
        (folder / "memory.current").write_text(f"{use}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\n")
    assert host_memory_free(tmp_path) == free


def test_what_this_host_can_give_is_near_what_it_has() -> None:
    assert 1 << 20 < host_memory_free() < 1 << 50
