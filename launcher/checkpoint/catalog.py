"""The checkpoints of a run, from outside: which are there, which one to go on from, what the run kept there.

A resume takes the newest whose every byte is right and says what it passed over, and why. `newest` chooses by
the small files and the sizes of the others. Damage in the large ones is met by those who load the checkpoint,
block by block; they then ask again, with what they found. Where there are checkpoints but none is whole it is
refused: starting again from nothing is never the silent answer. No torch here, for `check` looks too; tensors
are read in load.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.durable import sync_folder
from data.errors import BadInput
from launcher.checkpoint.format import MANIFEST, Damaged, OtherFormat, step_name, weights_name
from launcher.checkpoint.read import StoredCheckpoint, read_manifest
from launcher.checkpoint.retention import steps_in


def newest(
    folder: Path,
    step: int | None = None,
    rewound: tuple[int, int] | None = None,
    damaged: Mapping[int, Sequence[str]] | None = None,
    weights: bool = False,
) -> tuple[StoredCheckpoint | None, list[str]]:
    """The newest checkpoint whose small files are right, opened, and a line for each newer one passed over.

    With `step` that one or BadInput. rewound (attempt, step): that attempt went back to that step, so what
    others saved of later steps was given up, also where it was killed before it had set that aside. damaged:
    step → what was found wrong by reading that checkpoint. weights: those that are kept as weights alone
    serve too, where the step has no whole one. (None, []) where nothing was ever saved; BadInput
    where all that was saved is damaged, or the choice falls on a checkpoint of another format.
    """
    damaged = damaged or {}
    names = {number: weights_name(number) for number in steps_in(folder, "weights") if weights}
    names |= {number: step_name(number) for number in steps_in(folder)}
    # One that has gone since it was found damaged counts still, lest the run begin again from nothing.
    steps = sorted({*names, *damaged})
    if step is not None:
        _require(folder, step, steps)
        steps = [step]
    passed_over: list[str] = []
    for number in reversed(steps):
        path = folder / names.get(number, step_name(number))
        try:
            if number in damaged:
                raise Damaged(*damaged[number])
            stored = StoredCheckpoint(path)
        except Damaged as damage:
            passed_over += [f"{path}/{line}" for line in damage.lines]
            continue
        if step is None and rewound and number > rewound[1] and stored.attempt != rewound[0]:
            continue
        return stored, passed_over
    if passed_over and step is not None:
        others = f"'headrace checkpoint ls {folder.parent}' shows the others"
        raise BadInput(f"the checkpoint of step {step} is damaged: {'; '.join(passed_over)}; {others}")
    if passed_over:
        raise BadInput(f"no checkpoint is whole: {'; '.join(passed_over)}")
    return None, []


def opened(path: Path) -> StoredCheckpoint | None:
    """The checkpoint that a folder itself is; None where it is none. BadInput where it is damaged."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        return StoredCheckpoint(path)
    except Damaged as damage:
        raise BadInput(f"{path}/{damage}") from None


def weights_at(folder: Path, step: int) -> StoredCheckpoint:
    """The checkpoint of that step, whole or weights alone, opened. BadInput where there is none, or its small
    files are damaged."""
    stored, _ = newest(folder, step, weights=True)
    assert stored is not None
    return stored


def abandon(folder: Path, after: int, attempt: int) -> list[str]:
    """Rename every checkpoint of a later step than `after`: attempt `attempt` goes on from there, and what
    was saved of the other future must not be chosen again. The new names. For rank 0."""
    renamed = []
    for kind, name_of in (("step", step_name), ("weights", weights_name)):
        for name in [name_of(step) for step in steps_in(folder, kind) if step > after]:
            aside = folder / f"{name}.abandoned-{attempt:04d}"
            (folder / name).rename(aside)
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
        except OtherFormat as other:
            state = aside or f"of {other.writer}"
            newest_whole = newest_whole if aside else None  # a resume refuses that one
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
    return {path: _problems(path) for path in paths}


def _problems(path: Path) -> list[str]:
    """A line for each damaged file of a checkpoint, after reading every byte."""
    try:
        lines = StoredCheckpoint(path).problems()
    except Damaged as damage:
        lines = damage.lines
    except OtherFormat as other:
        return [str(other)]
    return [f"{path}/{line}" for line in lines]


def _require(folder: Path, step: int, steps: list[int]) -> None:
    """BadInput where no checkpoint is of this step."""
    if step not in steps:
        known = ", ".join(str(s) for s in sorted({*steps})) or "none"
        raise BadInput(f"{folder}: no checkpoint of step {step}; there are: {known}")
