"""Cuts of parameters against numpy, element by element; and checkpoints of cuts, moved to any other cuts."""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from data.errors import BadInput
from launcher.checkpoint import format as format_module
from launcher.checkpoint import read
from launcher.checkpoint.catalog import newest, verify
from launcher.checkpoint.format import (
    INDEX,
    KINDS,
    MANIFEST,
    PROGRESS,
    Damaged,
    seal,
    step_name,
    weights_name,
)
from launcher.checkpoint.load import load, read_weights
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.checkpoint.retention import Retention
from launcher.checkpoint.save import Checkpoints
from launcher.checkpoint.save_job import SaveFailed, SaveJob
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.cut import Cut, Runs, cover_fault, narrowed
from launcher.engine.layout import LayoutConfig
from launcher.engine.sharded_state import Fragment, LayoutMismatch, StateMap
from model.config import ModelConfig
from tests.support.engine_cases import LENGTH, elements, train_and_save, varied
from tests.support.ranks import run
from tests.support.sources import ROOT

Random = np.random.Generator


def tensor_parallel(random: Random, shape: tuple[int, ...]) -> list[list[Cut]]:
    """A parameter cut over some ranks by columns, by rows or not at all, into unequal parts too."""
    size = int(np.prod(shape))
    width = shape[-1] if len(shape) > 1 else 1
    way = random.integers(3)
    if way == 0:
        return [[Cut.of(0, size)]]
    if way == 1 and width > 1:
        edges = np.unique([0, *random.integers(1, width, 3), width]).tolist()
        return [
            [Cut.of(low, size // width * (high - low), high - low, width)]
            for low, high in itertools.pairwise(edges)
        ]
    edges = (np.unique([0, *random.integers(1, size // width + 1, 5), size // width]) * width).tolist()
    stretches = [Cut.of(low, high - low) for low, high in itertools.pairwise(edges)]
    return [own for first in range(2) if (own := stretches[first::2])]  # several stretches on a rank: qkv


def spread(random: Random, shape: tuple[int, ...], ranks: int) -> list[list[Cut]]:
    """A parameter over some ranks: by tensor parallelism, and each part of that by ZeRO at random edges."""
    own: list[list[Cut]] = [[] for _ in range(ranks)]
    for part in tensor_parallel(random, shape):
        size = sum(cut.length for cut in part)
        edges = np.sort([0, *random.integers(0, size + 1, ranks - 1), size]).tolist()
        for rank, low, high in zip(random.permutation(ranks), edges, edges[1:]):
            own[rank] += narrowed(part, low, high - low)
    return own


def joined(cuts: list[list[Cut]]) -> list[Cut]:
    """Of all ranks."""
    return [cut for own in cuts for cut in own]


SHAPES = {"table": (13, 8), "norm": (9,), "one": (1,), "down": (6, 12), "up": (12, 6)}


def test_a_part_of_cuts_is_what_numpy_takes_of_them() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        part = tensor_parallel(random, (int(random.integers(1, 9)), int(random.integers(1, 9))))[-1]
        whole = np.concatenate([elements(cut) for cut in part])
        first = int(random.integers(len(whole)))
        count = int(random.integers(1, len(whole) - first + 1))
        found = narrowed(part, first, count)
        np.testing.assert_array_equal(
            np.concatenate([elements(cut) for cut in found]), whole[first : first + count]
        )
        assert len(found) <= 3 * len(part)
        for cut in found:
            assert Cut.of(*cut.numbers) == cut
            assert cut.element(cut.length - 1) == elements(cut)[-1]


def test_runs_are_the_elements_and_what_they_share_with_others_too() -> None:
    random = np.random.default_rng(2)
    for _ in range(200):
        shape = (int(random.integers(1, 8)), int(random.integers(1, 8)))
        here, there = (joined(spread(random, shape, 3)) for _ in range(2))
        own, other = Runs.of(here), Runs.of(there)
        for runs, cuts in ((own, here), (other, there)):
            for start, length, cut, local in zip(runs.start, runs.length, runs.cut, runs.local):
                np.testing.assert_array_equal(
                    elements(cuts[cut])[local : local + length], np.arange(start, start + length)
                )
        a, b, begin, length = own.shared(other)
        assert sorted(e for x, n in zip(begin, length) for e in range(x, x + n)) == list(
            range(np.prod(shape))
        )
        for runs, number in ((own, a), (other, b)):
            assert (runs.start[number] <= begin).all()
            assert (begin + length <= runs.end[number]).all()


def test_the_check_of_the_cover_agrees_with_a_count_of_every_element() -> None:
    random = np.random.default_rng(3)
    right = wrong = 0
    for number in range(600):
        shape = (int(random.integers(1, 8)), int(random.integers(1, 8)))
        size = int(np.prod(shape))
        cuts = joined(spread(random, shape, int(random.integers(1, 4))))
        if number % 2 and cuts:  # something is lost, twice there, elsewhere, or longer
            at = int(random.integers(len(cuts)))
            cut = cuts.pop(at)
            change = random.integers(4)
            if change == 1:
                cuts += [cut, cut]
            if change == 2:
                cuts.append(cut._replace(offset=max(0, cut.offset + int(random.integers(-2, 3)))))
            if change == 3:
                cuts.append(Cut.of(cut.offset, cut.length + 1))
        counts = np.bincount(np.concatenate([np.empty(0, int), *map(elements, cuts)]), minlength=size)
        exact = len(counts) == size and bool((counts == 1).all())
        fault = cover_fault(cuts, size)
        assert (fault is None) == exact, (cuts, size)
        if fault is not None:
            at = int(fault.split()[1])
            assert at >= size or counts[at] != 1, fault
        right, wrong = right + exact, wrong + (not exact)
    assert right > 200
    assert wrong > 200


def write(
    folder: Path,
    values: dict[tuple[str, str], np.ndarray],
    layout: dict[str, list[list[Cut]]],
    ranks: int,
    bare: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
) -> Path:
    """A checkpoint of step 1 by the threads' own code; `bare` parameters have no moments."""
    names = list(layout)
    jobs = []
    for rank in range(ranks):
        own = [(number, cut) for number, name in enumerate(names) for cut in layout[name][rank]]
        data = {
            kind: np.concatenate(
                [
                    np.empty(0, np.float32),
                    *(
                        values[names[number], kind].reshape(-1)[elements(cut)]
                        for number, cut in own
                        if kind == "w" or names[number] not in bare
                    ),
                ]
            )
            for kind in kinds
        }
        jobs.append(
            SaveJob(
                folder=folder,
                partial=folder / f"{step_name(1)}.partial-0001",
                rank=rank,
                size=ranks,
                begin=0.0,
                data=data,
                fragments=own,
                parameters=[[name, list(SHAPES[name]), *([["w"]] if name in bare else [])] for name in names],
                progress={"adam_step": 1, "run": {"step": 1}},
                manifest={"format": 3, "step": 1, "attempt": 1, "parent": None, "about": {}, "layout": {}},
            )
        )
    jobs[0].partial.mkdir(parents=True)
    for job in jobs:
        job.write_own()
    jobs[0].publish(lambda: True, patience=1)
    return jobs[0].target


def numbers(random: Random) -> dict[tuple[str, str], np.ndarray]:
    """Values for every element of every kind."""
    return {
        (name, kind): random.standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
        for kind in KINDS
    }


def test_random_cuts_are_saved_and_read_as_any_other_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 64 bytes, so that every run crosses some; each block that is touched is read once."""
    asked: list[tuple[str, int]] = []

    def counted(descriptor: int, offset: int, length: int) -> bytes:
        asked.append((os.readlink(f"/proc/self/fd/{descriptor}"), offset))
        return format_module.read_at(descriptor, offset, length)

    for module in (format_module, read):
        monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(read, "read_at", counted)
    random = np.random.default_rng(4)
    for number in range(40):
        values, ranks = numbers(random), int(random.integers(1, 5))
        bare = ["one", "down"] if number % 3 == 0 else []
        layout = {name: spread(random, shape, ranks) for name, shape in SHAPES.items()}
        stored = StoredCheckpoint(write(tmp_path / str(number), values, layout, ranks, bare))
        assert stored.problems() == []
        others = int(random.integers(1, 5))
        cuts = {name: spread(random, shape, others) for name, shape in SHAPES.items()}
        for rank in range(others):
            requests = [
                Request(kind, name, cut, np.full(cut.length, np.nan, np.float32))
                for kind in KINDS
                for name in SHAPES
                for cut in cuts[name][rank]
                if stored.keeps(name, kind)
            ]
            asked.clear()
            stored.read(requests)
            assert len(asked) == len({*asked}), "a block was read twice"
            for one in requests:
                expected = values[one.name, one.kind].reshape(-1)[elements(one.cut)]
                np.testing.assert_array_equal(one.out, expected)
        whole = {name: torch.empty(shape) for name, shape in SHAPES.items()}
        read_weights(stored, whole)
        for name, weight in whole.items():
            np.testing.assert_array_equal(weight.numpy(), values[name, "w"])
        for name in bare:
            assert stored.keeps(name, "w")
            assert not stored.keeps(name, "exp_avg")
            with pytest.raises(Damaged, match=f"0 of 1 elements of {name}, exp_avg, are there"):
                stored.read([Request("exp_avg", name, Cut.of(0, 1), np.empty(1, np.float32))])


def test_a_cut_that_is_lost_or_saved_twice_is_no_checkpoint(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    layout = {name: [[Cut.of(0, int(np.prod(shape)))]] for name, shape in SHAPES.items()}
    for name, cuts in (("lost", [Cut.of(0, 36, 6, 12)]), ("twice", [Cut.of(0, 36, 6, 12), Cut.of(0, 72)])):
        with pytest.raises(SaveFailed, match=r"down: element \d+ is there twice or not at all"):
            write(tmp_path / name, numbers(random), layout | {"down": [cuts]}, 1)


def test_a_number_that_is_none_is_named_by_its_place_in_the_parameter(tmp_path: Path) -> None:
    values = numbers(np.random.default_rng(6))
    values["down", "exp_avg"][2, 7] = np.nan
    layout = {name: [[Cut.of(0, int(np.prod(shape)))]] for name, shape in SHAPES.items()}
    columns = [Cut.of(0, 36, 6, 12), Cut.of(6, 36, 6, 12)]
    with pytest.raises(SaveFailed, match=r"down: element 31 of exp_avg is no number \(nan\)"):
        write(tmp_path / "c", values, layout | {"down": [columns]}, 1)


def state_of(columns: bool) -> StateMap:
    """The state of one rank that holds all: whole weights, or the two halves of `down` one behind the other,
    the second beginning within a run."""
    module = nn.Module()
    module.down, module.norm = nn.Parameter(torch.zeros(6, 12)), nn.Parameter(torch.zeros(9))
    flat = nn.Parameter(torch.zeros(72 + 9 + 3))
    halves = narrowed([Cut.of(6, 36, 6, 12), Cut.of(0, 36, 6, 12)], 4, 68)
    halves += narrowed([Cut.of(6, 36, 6, 12), Cut.of(0, 36, 6, 12)], 0, 4)
    held, position = [], 3
    for cut in halves if columns else [Cut.of(0, 72)]:
        held.append(Fragment("down", cut.offset, cut.length, 0, position, cut.run, cut.stride))
        position += cut.length
    held.append(Fragment("norm", 0, 9, 0, position))

    @torch.no_grad()
    def refresh() -> None:
        for fragment in held:
            parameter = dict(module.named_parameters())[fragment.name].view(-1)
            parameter[torch.from_numpy(elements(fragment.cut))] = state.piece(fragment, "w")

    def local_weight(parameter: nn.Parameter, fragment: Fragment) -> Tensor:
        return parameter.detach().view(-1)[torch.from_numpy(elements(fragment.cut))]

    state = StateMap(
        dict(module.named_parameters()),
        torch.optim.AdamW([flat]),
        [flat],
        held,
        held,
        {"down": (6, 12), "norm": (9,)},
        refresh,
        local_weight,
    )
    return state


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A whole parameter, no element like another."""
    return torch.arange(len(name), len(name) + np.prod(shape), dtype=torch.float32).view(shape)


def test_a_state_of_columns_is_filled_saved_and_moved(tmp_path: Path) -> None:
    """Through StateMap, Checkpoints and load: columns → whole rows → columns."""
    parallel, whole, again = state_of(True), state_of(False), state_of(True)
    parallel.fill(drawn)
    for fragment in parallel.held:
        expected = drawn(fragment.name, parallel.shapes[fragment.name]).view(-1)
        assert torch.equal(parallel.piece(fragment, "w"), expected[torch.from_numpy(elements(fragment.cut))])
        for kind in KINDS[1:]:
            parallel.piece(fragment, kind).copy_(torch.randn(fragment.length))
    world = World()
    for step, (source, target) in enumerate(((parallel, whole), (whole, again)), 1):
        engine: Any = SimpleNamespace(state=source, layout=LayoutConfig())
        saves = Checkpoints(
            tmp_path, world, step, HostSums(world), Retention(), parent={"step": step - 1, "attempt": 1}
        )
        saves.save(engine, step, {})
        saves.finish()
        load(world, StoredCheckpoint(tmp_path / step_name(step)), target)
    for kind in KINDS:
        assert torch.equal(again.tensor(0, kind), parallel.tensor(0, kind))
        flat = whole.tensor(0, kind)[3 : 3 + 72].numpy()
        for fragment in parallel.held[:-1]:
            np.testing.assert_array_equal(
                flat[elements(fragment.cut)], parallel.piece(fragment, kind).numpy()
            )
    again.flats[0].data[3] += 1
    with pytest.raises(LayoutMismatch, match="down, 2 elements from 10 on: the model's weight is not"):
        again.check_guard()


OLD = ROOT / "tests/fixtures/format-2"


def test_a_checkpoint_of_format_2_is_resumed_and_kept_as_weights(tmp_path: Path) -> None:
    """Written by the headrace before format 3, on 2 ranks in ZeRO 2; beside it what safetensors reads."""
    folder = Path(shutil.copytree(OLD, tmp_path / "c"))
    stored, passed_over = newest(folder)
    assert stored is not None
    assert (stored.manifest["format"], stored.step, passed_over) == (2, 2, [])
    assert verify(folder) == {folder / step_name(2): []}
    small = ModelConfig(layers=1, width=8, heads=2, mlp_width=8, max_sequence_length=LENGTH)
    setting = varied(model=small, steps=3, zero=1)
    went_on = run(train_and_save, 1, setting, folder, str(stored.path), 3, 3)[0]
    for file in stored.index["files"]:
        flats = load_file(stored.path / file["name"])
        position = 0
        for number, offset, length in file["fragments"]:
            name = list(stored.shapes)[number]
            for kind in KINDS:
                np.testing.assert_array_equal(
                    went_on["before"][name, kind].reshape(-1)[offset : offset + length],
                    flats[kind][position : position + length],
                )
            position += length
    assert np.isfinite(went_on["losses"]).all()
    assert StoredCheckpoint(folder / step_name(3)).manifest["format"] == 3
    shutil.copytree(folder / step_name(3), folder / step_name(4))
    assert Retention(1, lambda _: True, 1).apply(folder, 4, 1, set()) == [step_name(2)]
    bare = StoredCheckpoint(folder / weights_name(2))
    assert (bare.manifest["format"], bare.kinds, bare.problems()) == (2, ["w"], [])
    whole = {name: torch.empty(shape) for name, shape in bare.shapes.items()}
    read_weights(bare, whole)
    for name, weight in whole.items():
        np.testing.assert_array_equal(weight.numpy(), went_on["before"][name, "w"])


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("where", [MANIFEST, INDEX, PROGRESS, "kinds"])
def test_what_a_later_headrace_adds_is_passed_over_or_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, optional: bool
) -> None:
    """As a later one would write it: with a kind between those that are known, and with names elsewhere."""
    later = "later"
    layout = {name: [[Cut.of(0, int(np.prod(shape)))]] for name, shape in SHAPES.items()}
    values = numbers(np.random.default_rng(7))
    values |= {(name, later): values[name, "w"] + 1 for name in SHAPES}
    kinds = ("w", later, *KINDS[1:]) if where == "kinds" else KINDS
    path = write(tmp_path, values, layout, 1, kinds=kinds)
    parts = {name: json.loads((path / name).read_bytes()) for name in (MANIFEST, INDEX, PROGRESS)}
    if where in parts:
        parts[where][later] = {"any": 1}
    parts[MANIFEST]["optional"] = [later] if optional else []
    manifest = {k: v for k, v in parts[MANIFEST].items() if k not in ("sha256", "sizes", "sha256s")}
    (path / MANIFEST).unlink()
    seal(path, manifest, parts[INDEX], parts[PROGRESS])
    if not optional:
        with pytest.raises(BadInput, match=r"a newer headrace \(with later\); this one does not know that"):
            newest(tmp_path)
        return
    stored, _ = newest(tmp_path)
    assert stored is not None
    assert stored.kinds == list(KINDS)
    assert stored.problems() == []
    for kind in KINDS:
        found = np.empty(72, np.float32)
        stored.read([Request(kind, "down", Cut.of(0, 72), found)])
        np.testing.assert_array_equal(found, values["down", kind].reshape(-1))
