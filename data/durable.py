"""Files and lines that are on the disk after a crash, whole or not at all; and reading such lines back."""

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import BadInput


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the file system refuses within it is one line about `path`."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from error


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
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with writing(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(temporary, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # where it could not be made either
            temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Put a folder's names on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
