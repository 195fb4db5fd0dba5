"""Tensors out of a checkpoint: into an engine, whatever its layout, or whole and on the CPU.

    undamaged(world, read)         a read by every rank, of which all hear where any of them met damage
    load(world, stored, state)     every rank reads what it holds, and checks each block that it reads
    load_weights(…)                the same of the weights alone: a run that begins, and does not go on

Where any rank met damage all raise FoundDamaged with the lines of all, so a start goes on from an older
checkpoint on all ranks. Together they read each element of each parameter: nothing that the run needs stays
unchecked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from data.errors import BadInput
from launcher.checkpoint.format import KINDS, Damaged
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.distributed.collectives import gather, together
from launcher.distributed.world import World
from launcher.engine.cut import Cut
from launcher.engine.sharded_state import StateMap

T = TypeVar("T")


class FoundDamaged(Exception):
    """Some rank found a checkpoint damaged; the same lines on every rank, each once."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def undamaged(world: World, read: Callable[[], T]) -> T:
    """`read()` on every rank, or FoundDamaged on every rank where it met damage on any. A collective."""

    def attempt() -> tuple[list[T], list[str]]:
        try:
            return [read()], []
        except Damaged as damage:
            return [], damage.lines

    result, own = together(world, attempt)
    lines = list(dict.fromkeys(line for lines in gather(world, own) for line in lines))
    if lines:
        raise FoundDamaged(lines)
    return result[0]


def load(world: World, stored: StoredCheckpoint, state: StateMap) -> None:
    """Fill this rank's masters and moments, refresh the model, check the map.

    Kinds that were added to it are filled where the checkpoint has them (`stored.kinds`), and else left as
    they are. A collective. FoundDamaged on all ranks: what was filled by then is to be filled again from
    another. BadInput for a model of other shapes, or weights without moments.
    """
    together(world, lambda: _require(stored, state.shapes))
    undamaged(world, lambda: _fill(stored, state, [kind for kind in state.kinds if kind in stored.kinds]))
    state.adam_step = stored.adam_step
    state.refresh()
    state.check_guard()


def load_weights(world: World, stored: StoredCheckpoint, state: StateMap) -> None:
    """Fill this rank's masters alone, refresh the model, check the map: the moments stay as they are. A
    collective. FoundDamaged on all ranks; BadInput for a model of other shapes."""
    together(world, lambda: _require_shapes(stored, state.shapes, "weights begin a model of their own shape"))
    undamaged(world, lambda: _fill(stored, state, ["w"]))
    state.refresh()
    state.check_guard()


@torch.no_grad()
def read_weights(stored: StoredCheckpoint, weights: Mapping[str, Tensor], kind: str = "w") -> None:
    """Fill whole float32 weights on the CPU, by name: it needs no engine and makes no copy. Damaged names the
    file and its bytes."""
    stored.read(
        [
            Request(kind, name, Cut.of(0, whole.numel()), whole.view(-1).numpy())
            for name, whole in weights.items()
        ]
    )


def _require(stored: StoredCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """BadInput unless a checkpoint holds all of a model of these shapes, and nothing else."""
    if not all(stored.keeps(name, kind) for name in shapes if name in stored.shapes for kind in KINDS):
        raise BadInput(f"{stored.path}: holds weights only, it cannot be resumed")
    _require_shapes(stored, shapes, "resume with the model and tokenizer that the run was started with")


def _require_shapes(stored: StoredCheckpoint, shapes: Mapping[str, tuple[int, ...]], remedy: str) -> None:
    for name, shape in shapes.items():
        if stored.shapes.get(name) != shape:
            found = stored.shapes.get(name, "nothing")
            raise BadInput(
                f"{stored.path}: {name} is {found} in the checkpoint and {shape} in the model of the config; "
                f"{remedy}"
            )
    for name in stored.shapes:
        if name not in shapes:
            raise BadInput(f"{stored.path}: {name} is in the checkpoint and not in the model of the config")


@torch.no_grad()
def _fill(stored: StoredCheckpoint, state: StateMap, kinds: Sequence[str]) -> None:
    """Straight into the flats on a CPU; onto a GPU through pinned host memory for one kind of them.

    All flats of a kind are read in one pass over the files: neighbouring parameters may lie in different
    flats, and a pass for each flat would read the blocks that they share again.
    """
    for kind in kinds:
        targets = [state.tensor(flat, kind) for flat in range(len(state.flats))]
        hosts = [
            target
            if target.device.type == "cpu"
            else torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
            for target in targets
        ]
        arrays = [host.numpy() for host in hosts]
        stored.read(
            [
                Request(kind, f.name, f.cut, arrays[f.flat][f.position : f.position + f.length])
                for f in state.held
            ]
        )
        for target, host in zip(targets, hosts):
            if host is not target:
                target.copy_(host)
