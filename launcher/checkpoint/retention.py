"""Which checkpoints stay: the newest n, and those of certain steps for ever, the older of these weights only.

Nothing is deleted before a newer checkpoint has been published, and publishing reads it back first. A folder
gets another name before its files go, so a deletion that is cut off leaves nothing that looks whole. What the
file system refuses here (a file that somebody holds open on NFS, no room for a copy of the weights) costs no
checkpoint, so it ends no run: it is said once, and tried again at the next save and the next start.
"""

import errno
import functools
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.durable import folder_aside
from launcher.checkpoint.format import (
    AVERAGES,
    Damaged,
    OtherFormat,
    delete,
    publish_folder,
    seal,
    step_name,
    weights_name,
    write_fragments,
)
from launcher.checkpoint.read import Request, StoredCheckpoint

LEFT_FREE = 64 << 20
"""Bytes that checkpoints leave free beyond what they take: logs and metrics must go on."""

_log = logging.getLogger("headrace")


@dataclass(frozen=True)
class Retention:
    """The newest `keep` stay whole. Others stay if `keeps` says so of their step; of these all but the newest
    `weights_only_after` lose their moments. None: no such rule."""

    keep: int = 2
    keeps: Callable[[int], bool] | None = None
    weights_only_after: int | None = None

    def plan(self, steps: Sequence[int]) -> tuple[list[int], list[int]]:
        """Of the steps that are there, those to delete and those to reduce to their weights."""
        older = sorted(steps)[: -self.keep]
        forever = [step for step in older if self.keeps is not None and self.keeps(step)]
        bare = forever[: -self.weights_only_after] if self.weights_only_after else []
        return [step for step in older if step not in forever], bare

    def apply(self, folder: Path, published: int, attempt: int, damaged: set[int]) -> list[str]:
        """Bring a folder into this state, step `published` being the newest; the names of what went.

        Where weights cannot be kept because of damage or another format, all of it stays for its owner to
        look at, and the step is added to `damaged`, which the attempt keeps: told once, and read once.
        """
        gone, bare = self.plan([step for step in steps_in(folder) if step <= published])
        for path in [*folder.glob("*.deleting"), *(folder / step_name(step) for step in gone)]:
            _delete(path)
        for step in bare:
            path = folder / step_name(step)
            if step in damaged:
                continue
            try:
                _keep_weights(folder, step, attempt)
            except Damaged as damage:
                _warn(f"{path}/{damage}; it is damaged, and stays as it is")
                damaged.add(step)
            except OtherFormat as other:
                _warn(f"{other}; it stays as it is")
                damaged.add(step)
            except OSError as error:
                _warn(f"{path}: its weights alone cannot be kept, so it stays for now: {error.strerror}")
            else:
                _delete(path)
                gone.append(step)
        return [step_name(step) for step in gone if not (folder / step_name(step)).exists()]


def steps_in(folder: Path, kind: str = "step") -> list[int]:
    """The steps of the published checkpoints in a folder, or of the weights, ascending; nothing is opened."""
    names = [entry.name for entry in folder.glob(f"{kind}-*")] if folder.is_dir() else []
    numbers = [name.removeprefix(f"{kind}-") for name in names]
    return sorted(int(number) for number in numbers if number.isdigit())


def clean(folder: Path, attempt: int) -> list[str]:
    """Clear away what older attempts and cut-off deletions left behind; the names. For rank 0, at a start."""
    left = [entry for entry in folder.glob("*.deleting") if entry.is_dir()]
    for entry in folder.glob("*.partial-*"):
        number = entry.name.rpartition("-")[2]
        if number.isdigit() and int(number) < attempt:
            left.append(entry)
    for entry in left:
        _delete(entry)
    return [entry.name for entry in left if not entry.exists()]


@functools.cache
def _warn(line: str) -> None:
    """Once in a process, since what is in the way is met again at each save."""
    _log.warning("%s", line)


def _delete(path: Path) -> None:
    """Delete a folder as far as the file system lets it; the next save tries again."""
    try:
        delete(path)
    except OSError as error:
        _warn(f"{str(path).removesuffix('.deleting')}: cannot be deleted for now: {error.strerror}")


def _keep_weights(folder: Path, step: int, attempt: int) -> None:
    """Publish weights-N beside step-N."""
    target = folder / weights_name(step)
    if target.exists():
        return
    stored = StoredCheckpoint(folder / step_name(step))
    kinds = len(_weights_of(stored))
    needed = 4 * kinds * sum(math.prod(shape) for shape in stored.shapes.values()) + LEFT_FREE
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    partial = target.with_name(f"{target.name}.partial-{attempt:04d}")
    with folder_aside(partial):  # gone where this fails: on a full disk, room for what is worth more
        _write_weights(stored, partial)
        publish_folder(partial, target, attempt)


def _write_weights(stored: StoredCheckpoint, partial: Path) -> None:
    """The weights of a checkpoint into an empty folder, sealed. One rank's part is in memory at a time."""
    files = []
    for file, fragments in zip(stored.index["files"], stored.fragments):
        parts: dict[str, np.ndarray] = {}
        requests = []
        for kind in _weights_of(stored):
            kept = [(name, cut) for name, cut in fragments if stored.keeps(name, kind)]
            weights = parts[kind] = np.empty(sum(cut.length for _, cut in kept), dtype="<f4")
            position = 0
            for name, cut in kept:
                requests.append(Request(kind, name, cut, weights[position : position + cut.length]))
                position += cut.length
        stored.read(requests)
        elements = {kind: len(weights) for kind, weights in parts.items()}
        data = (weights.data for weights in parts.values())
        files.append(file | write_fragments(partial, file["name"], elements, data))
    manifest = {key: value for key, value in stored.manifest.items() if key not in ("sizes", "sha256s")}
    index = {**stored.index, "kinds": _weights_of(stored), "files": files}
    seal(partial, manifest, index, stored.progress_file)


def _weights_of(stored: StoredCheckpoint) -> list[str]:
    """The kinds that are weights, to be read from without the rest."""
    return [kind for kind in stored.kinds if kind in ("w", *AVERAGES)]
