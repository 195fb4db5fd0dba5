"""A checkpoint in a second folder without its bytes being written again: by hard links.

    runs/first/checkpoints/step-00001000/frag-00000.safetensors ──┐
                                                                  ├── the same bytes on the disk
    runs/decay/checkpoints/step-00001000/frag-00000.safetensors ──┘

Two runs may share them because no file of a checkpoint is ever changed where it lies: what is written is
written under another name (save_job.py, retention.py), what is deleted loses its name and nothing else. So
either run may keep, reduce or delete its checkpoint, and the other one's stays whole. Where links cannot be
had (another file system, one that has none, another user's files) the files are copied.
"""

import os
import shutil
from pathlib import Path

from data.durable import sync_folder
from data.errors import BadInput
from launcher.checkpoint.format import MANIFEST, Damaged
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import LEFT_FREE


def share(stored: StoredCheckpoint, target: Path) -> str | None:
    """The files of a checkpoint in the new folder `target`, on the disk when this returns. None: all are hard
    links; else why they were copied. BadInput where they went meanwhile, there is no room, or a copy is not
    what was saved. OSError where the file system refuses."""
    target.mkdir(parents=True)
    names = [*stored.manifest["sizes"], MANIFEST]
    try:
        why = _link(stored.path, target, names)
        if why is not None:
            _require_room(stored, target)
            for name in names:
                if not (target / name).exists():
                    _copy(stored.path / name, target / name)
    except FileNotFoundError:
        raise BadInput(
            f"{stored.path}: was deleted by its run while it was taken; name another step, or repeat this"
        ) from None
    sync_folder(target)
    sync_folder(target.parent)
    try:
        lines = StoredCheckpoint(target).problems() if why else []
    except Damaged as damage:
        lines = damage.lines
    if lines:
        raise BadInput(f"{target}: the copy is not what was saved: {'; '.join(lines)}; repeat this")
    return why


def _link(source: Path, target: Path, names: list[str]) -> str | None:
    """Why the file system refuses links, if it does."""
    for name in names:
        try:
            os.link(source / name, target / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            return error.strerror or str(error)
    return None


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _require_room(stored: StoredCheckpoint, target: Path) -> None:
    needed, free = sum(stored.manifest["sizes"].values()), shutil.disk_usage(target).free
    if free < needed + LEFT_FREE:
        raise BadInput(
            f"{target.parent}: the checkpoint takes {needed / 1e9:.3g} GB there, {free / 1e9:.3g} GB are free"
        )
