"""The checkpoints of a run, from outside: which are there, which one to go on from, what is in it.

A resume takes the newest whose every byte is right and says what it passed over, and why. Where there are
checkpoints but none is whole it is refused: starting again from nothing is never the silent answer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.durable import sync_folder
from data.errors import BadInput
from launcher.checkpoint_format import KINDS, Damaged, step_name
from launcher.checkpoint_read import Request, Stored, problems, read_manifest
from launcher.fragments import StateMap
from launcher.retention import steps_in


@dataclass(frozen=True)
class Found:
    """A checkpoint that every check has passed."""

    step: int
    attempt: int
    path: str

    def plain(self) -> dict[str, Any]:
        """For JSON; Found(**plain) is the inverse."""
        return asdict(self)


def newest(
    folder: Path, step: int | None = None, rewound: tuple[int, int] | None = None
) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that was passed over.

    With `step` that one or BadInput. rewound (attempt, step): that attempt went back to that step, so what
    others saved of later steps was given up, also where it was killed before it had set that aside. (None,
    []) where nothing was ever saved; BadInput where all that was saved is damaged. Reads every byte of what
    it returns.
    """
    steps = steps_in(folder)
    if step is not None:
        _require(folder, step, steps)
        steps = [step]
    passed_over: list[str] = []
    for number in reversed(steps):
        path = folder / step_name(number)
        wrong = problems(path)
        if not wrong:
            attempt = read_manifest(path)["attempt"]
            if step is None and rewound and number > rewound[1] and attempt != rewound[0]:
                continue
            return Found(number, attempt, str(path)), passed_over
        passed_over += [f"{path}/{line}" for line in wrong]
    if passed_over and step is not None:
        others = f"'headrace checkpoint ls {folder.parent}' shows the others"
        raise BadInput(f"the checkpoint of step {step} is damaged: {'; '.join(passed_over)}; {others}")
    if passed_over:
        raise BadInput(f"no checkpoint is whole: {'; '.join(passed_over)}")
    return None, []


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
    stored = _open(Path(path), None)
    weights = {name: np.empty(shape, dtype=np.float32) for name, shape in stored.shapes.items()}
    _read(stored, [Request("w", name, 0, out.reshape(-1)) for name, out in weights.items()])
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def read_progress(path: str | Path) -> dict[str, Any]:
    """What the run kept of itself. BadInput for damage."""
    return _open(Path(path), None).progress


def abandon(folder: Path, after: int, attempt: int) -> list[str]:
    """Rename every checkpoint of a later step than `after`: attempt `attempt` goes on from there, and what
    was saved of the other future must not be chosen again. The new names. For rank 0."""
    renamed = []
    for step in steps_in(folder):
        if step > after:
            aside = folder / f"{step_name(step)}.abandoned-{attempt:04d}"
            (folder / step_name(step)).rename(aside)
            renamed.append(aside.name)
    if renamed:
        sync_folder(folder)
    return renamed


def listing(folder: Path) -> list[dict[str, Any]]:
    """A row for each folder of a checkpoint, oldest first: for `headrace checkpoint ls`.

    `state` comes from the manifest and the sizes of the files; `verify` reads the content.
    """
    rows = []
    newest_whole = None
    entries = [*folder.glob("step-*"), *folder.glob("weights-*")] if folder.is_dir() else []
    for path in sorted(entries, key=lambda p: (p.name.partition("-")[2], p.name)):
        kind, _, rest = path.name.partition("-")
        number, _, aside = rest.partition(".")
        if not number.isdigit():
            continue
        row: dict[str, Any] = {"step": int(number), "attempt": None, "parent": None, "gigabytes": None}
        try:
            manifest = read_manifest(path)
            parent = manifest["parent"]
            row["attempt"] = manifest["attempt"]
            row["parent"] = parent["step"] if parent else None
            row["gigabytes"] = round(sum(manifest["sizes"].values()) / 1e9, 3)
            state = aside or ("whole" if kind == "step" else "weights only")
        except Damaged as damage:
            state = aside or f"damaged: {damage}"
        row |= {"state": state, "resume": "", "path": str(path)}
        rows.append(row)
        if state == "whole":
            newest_whole = row
    if newest_whole:
        newest_whole["resume"] = "from here"
    return rows


def verify(folder: Path, step: int | None = None) -> dict[Path, list[str]]:
    """Every checkpoint, or that of `step`, with a line for each of its damaged files; reads every byte."""
    entries = [*sorted(folder.glob("step-????????")), *sorted(folder.glob("weights-????????"))]
    paths = [path for path in entries if path.name.partition("-")[2].isdigit()]
    if step is not None:
        steps = [int(path.name.partition("-")[2]) for path in paths]
        _require(folder, step, steps)
        paths = [path for path, its in zip(paths, steps) if its == step]
    return {path: [f"{path}/{line}" for line in problems(path)] for path in paths}


def _require(folder: Path, step: int, steps: list[int]) -> None:
    """BadInput where no checkpoint is of this step."""
    if step not in steps:
        known = ", ".join(str(s) for s in sorted({*steps})) or "none"
        raise BadInput(f"{folder}: no checkpoint of step {step}; there are: {known}")


def _open(path: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> Stored:
    try:
        stored = Stored(path)
    except Damaged as damage:
        raise BadInput(f"{path}/{damage}") from damage
    if shapes is None:
        return stored
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


def _read(stored: Stored, requests: list[Request]) -> None:
    try:
        stored.read(requests)
    except Damaged as damage:
        raise BadInput(f"{stored.path}/{damage}") from damage


@torch.no_grad()
def _fill(stored: Stored, state: StateMap, kinds: tuple[str, ...] | list[str]) -> None:
    """Straight into the flats on a CPU; through one flat's worth of host memory otherwise."""
    for kind in kinds:
        for flat in range(len(state.flats)):
            target = state.tensor(flat, kind)
            host = target if target.device.type == "cpu" else torch.empty(target.shape, dtype=target.dtype)
            array = host.numpy()
            _read(
                stored,
                [
                    Request(kind, f.name, f.offset, array[f.position : f.position + f.length])
                    for f in state.held
                    if f.flat == flat
                ],
            )
            if host is not target:
                target.copy_(host)
