"""Files and lines that are on the disk after a crash, whole or not at all; and reading such lines back.

Everything that must be whole or not there is made aside, under a name that nobody looks for, and gets its own
name by one call of the file system: a file by `written_aside`, what needs a folder to be made in by
`folder_aside`. Neither says what a failure means: `writing` makes a line of it where the user named the file.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import BadInput


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the file system refuses within it is one line about `path`."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def written_aside(
    path: Path, *, aside: Path | None = None, sync: bool = True, replace: bool = True
) -> Iterator[BinaryIO]:
    """A file to write into; when the block ends well it is complete and bears the name `path`.

    aside: its name until then, in the same folder; `.NAME.part-…` by default. sync: it is on the disk before
    it gets its name (and the name after `sync_folder`). replace: what has the name already makes way, else it
    stays. When the block fails there is nothing. OSError where the file system refuses.
    """
    aside = aside or path.with_name(f".{path.name}.part-{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if replace:
            aside.rename(path)
        else:
            with suppress(FileExistsError):
                os.link(aside, path)
    finally:
        with suppress(OSError):  # where it could not be made either
            aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: Path) -> Iterator[None]:
    """The folder `path`, made for the block: what the block gives another name stays, be it the folder
    itself, and the rest is gone after it, however it ends. OSError where it cannot be made."""
    path.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def append(path: Path, line: str, sync: bool = True) -> None:
    """Append one line to a file in one write; on the disk when this returns, unless told not to sync.

    BadInput, and none of it in the file, where the disk refuses it. A line that a crash cut short is set off
    by a newline. Several processes may append to one file.
    """
    content = line.encode() + b"\n"
    with writing(path), open(path, "a+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        if length:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                content = b"\n" + content
        written = 0
        try:
            written = file.write(content) or 0
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(file.fileno())
        except OSError:
            if written:
                file.truncate(file.tell() - written)
            raise
    if sync and not length:
        with writing(path):
            sync_folder(path.parent)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """`append` of a record as a line of JSON, on the disk when this returns."""
    append(path, json.dumps(record, ensure_ascii=False))


def read_lines(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines; a last line that its writer never finished is passed over.
    BadInput for any other line that is no object with these keys."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict) or not value.keys() >= {*keys}:
                raise BadInput(f"{path}:{number}: is damaged: expected a JSON object{_with(keys)}; remove it")
            yield value


def _with(keys: Sequence[str]) -> str:
    return f" with {', '.join(keys)}" if keys else ""


def write_once(path: Path, content: bytes) -> None:
    """Make a file that is complete and on the disk from the moment it is there; one that exists stays."""
    with writing(path):
        with written_aside(path, replace=False) as file:
            file.write(content)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put a folder's names on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
