"""The mean of the weights of several checkpoints: a checkpoint of weights alone, to read and to begin from.

    for each stretch of each parameter     Σ over checkpoints, in float64 ──▶ / n ──▶ fp32 ──▶ the one file

What is in memory at a time is a stretch, however large the model is; every block is checked as it is read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.durable import folder_aside
from data.errors import BadInput
from launcher.checkpoint.format import (
    BLOCK,
    FORMAT,
    Damaged,
    fragment_name,
    publish_folder,
    seal,
    weights_name,
    write_fragments,
)
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.engine.cut import Cut

STRETCH = 1 << 22
"""Elements that are averaged at a time."""


def write_average(folder: Path, stored: Sequence[StoredCheckpoint], about: Mapping[str, Any]) -> Path:
    """weights-N in `folder`, N the last step; its path. about: facts for the manifest, beside which steps it
    is the mean of. BadInput for models of other shapes, and for damage."""
    _require_alike(stored)
    last = max(stored, key=lambda one: one.step)
    target = folder / weights_name(last.step)
    partial = target.with_name(f"{target.name}.partial-0001")
    elements = sum(math.prod(shape) for shape in last.shapes.values())
    with folder_aside(partial):
        entry = write_fragments(partial, fragment_name(0), {"w": elements}, _parts(stored, last.shapes))
        numbered = enumerate(last.shapes.items())
        entry["fragments"] = [[number, 0, math.prod(shape)] for number, (_, shape) in numbered]
        index = {
            "format": FORMAT,
            "block": BLOCK,
            "kinds": ["w"],
            "parameters": [[name, list(shape)] for name, shape in last.shapes.items()],
            "files": [entry],
        }
        manifest = {
            "format": FORMAT,
            "step": last.step,
            "attempt": last.attempt,
            "parent": None,
            "about": {**about, "mean_of": [{"path": str(one.path), "step": one.step} for one in stored]},
            "layout": {"processes": 1},
        }
        progress = {"adam_step": last.adam_step, "run": last.progress}
        seal(partial, manifest, index, progress)
        publish_folder(partial, target, 1)
    return target


def _require_alike(stored: Sequence[StoredCheckpoint]) -> None:
    """BadInput unless all hold models of the same parameters."""
    first = stored[0]
    for other in stored[1:]:
        for name in [*first.shapes, *other.shapes]:
            shapes = [one.shapes.get(name, "nothing") for one in (first, other)]
            if shapes[0] != shapes[1]:
                raise BadInput(
                    f"{other.path}: {name} is {shapes[1]} there and {shapes[0]} in {first.path}: weights of "
                    "two different models have no mean"
                )


def _parts(stored: Sequence[StoredCheckpoint], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[memoryview]:
    """The mean, a stretch at a time."""
    for name, shape in shapes.items():
        size = math.prod(shape)
        for begin in range(0, size, STRETCH):
            cut = Cut.of(begin, min(STRETCH, size - begin))
            yield _mean(stored, name, cut).data


def _mean(stored: Sequence[StoredCheckpoint], name: str, cut: Cut) -> np.ndarray:
    """float32 [cut.length]: the mean of one cut of one parameter."""
    total = np.zeros(cut.length)
    values = np.empty(cut.length, dtype=np.float32)
    for one in stored:
        try:
            one.read([Request("w", name, cut, values)])
        except Damaged as damage:
            raise BadInput(
                f"{one.path}/{damage}: a mean needs every checkpoint whole; leave it out"
            ) from None
        total += values
    return (total / len(stored)).astype("<f4")
