"""Tensors out of a checkpoint: into an engine, whatever its layout, or whole and on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.errors import BadInput
from launcher.checkpoint.catalog import open_stored
from launcher.checkpoint.format import KINDS, Damaged
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.engine.sharded_state import StateMap


def load(path: str | Path, state: StateMap) -> dict[str, Any]:
    """Fill this rank's masters and moments, refresh the model, check the map; the run's progress.

    A collective (the refresh). BadInput for damage, or a model of other shapes.
    """
    stored = _open(Path(path), state.shapes)
    for kind in KINDS:
        if kind not in stored.kinds:
            raise BadInput(f"{path}: holds weights only, it cannot be resumed")
    _fill(stored, state, KINDS)
    state.adam_step = stored.adam_step
    state.refresh()
    state.check_guard()
    return stored.progress


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name → whole float32 weight on the CPU, without an engine. BadInput for damage."""
    stored = open_stored(Path(path))
    weights = {name: np.empty(shape, dtype=np.float32) for name, shape in stored.shapes.items()}
    _read(stored, [Request("w", name, 0, out.reshape(-1)) for name, out in weights.items()])
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def _open(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> StoredCheckpoint:
    stored = open_stored(path)
    for name, shape in shapes.items():
        if stored.shapes.get(name) != shape:
            found = stored.shapes.get(name, "nothing")
            raise BadInput(
                f"{path}: {name} is {found} in the checkpoint and {shape} in the model of the config; "
                "resume with the model and tokenizer that the run was started with"
            )
    for name in stored.shapes:
        if name not in shapes:
            raise BadInput(f"{path}: {name} is in the checkpoint and not in the model of the config")
    return stored


def _read(stored: StoredCheckpoint, requests: list[Request]) -> None:
    try:
        stored.read(requests)
    except Damaged as damage:
        raise BadInput(f"{stored.path}/{damage}") from damage


@torch.no_grad()
def _fill(stored: StoredCheckpoint, state: StateMap, kinds: tuple[str, ...] | list[str]) -> None:
    """Straight into the flats on a CPU; onto a GPU through one flat's worth of pinned host memory."""
    for kind in kinds:
        for flat in range(len(state.flats)):
            target = state.tensor(flat, kind)
            on_host = target.device.type == "cpu"
            host = target if on_host else torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
            array = host.numpy()
            _read(
                stored,
                [
                    Request(kind, f.name, f.offset, array[f.position : f.position + f.length])
                    for f in state.held
                    if f.flat == flat
                ],
            )
            if not on_host:
                target.copy_(host)
