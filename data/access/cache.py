"""Files kept by key in one folder, bounded in bytes: what came from far away, had to be unpacked or encoded.

Several processes share a folder without a lock. A file is written under a temporary name and renamed when
it is whole, so a reader finds all of it or nothing; it is opened before it is handed out, so eviction cannot
take it from under a reader. What a killed process left under a temporary name is removed after an hour. The
folder is looked through only when a Cache has used up its share of the room that it saw at its last look, so
up to _SHARERS of them, those of other corpora or processes, keep the bound together. It may be deleted at any
moment.
"""

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.durable import written_aside
from data.errors import BadInput

_TEMPORARY = "writing-"
_ABANDONED = 3600.0
_NOTE = 1 << 10
_OURS = re.compile(f"({_TEMPORARY})?[0-9a-f]{{32,40}}")
"""What is counted and may be removed: a user may name a folder that holds other things too."""
_SHARERS = 32


@dataclass(frozen=True)
class CacheOptions:
    """`data.cache` of the config: for shards that are remote or packed as a whole, and for what follows from
    the tables of large corpora."""

    folder: str | None = None
    """Where files are kept; by default ~/.cache/headrace/shards."""
    bytes: int = 20 << 30
    """Bound of the folder."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled before each further one, up to half a minute."""
    timeout: float = 30.0
    """Seconds without a byte after which an attempt has failed."""

    def __post_init__(self) -> None:
        for name, least in (("bytes", 1), ("backoff", 0.0), ("timeout", 0.001)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is less than {least}")


class TooLarge(Exception):
    """A file that is larger than the bound of the cache."""


class Cache:
    """A bounded folder of files. May be used from several threads and processes."""

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self._room = 0
        self._pending = 0
        """Bytes that were taken of the room and are not in a file yet."""
        self._lock = threading.Lock()

    def open(self, key: str) -> BinaryIO | None:
        """The file of `key`, or None where the cache has none that can be read. Counts as a use of it."""
        path = self.path(key)
        try:
            file = path.open("rb")
        except OSError:
            return None
        with suppress(OSError):  # another user's file cannot be marked as used; evicted meanwhile, it is open
            os.utime(path)
        return file

    def put(self, key: str, chunks: Iterable[bytes]) -> BinaryIO:
        """Store chunks as the file of `key` and open it. TooLarge; OSError where the file system refuses."""
        path, aside = self.path(key), self.folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        total = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_aside(path, aside=aside, sync=False) as file:
            for chunk in chunks:
                total += len(chunk)
                if total > self.limit:
                    raise TooLarge
                self._claim(len(chunk))
                try:
                    file.write(chunk)
                    file.flush()
                finally:
                    with self._lock:
                        self._pending -= len(chunk)
            whole = aside.open("rb")  # before others can see it, and evict it
        with self._lock:
            # Files written side by side cannot evict each other until they are whole, and a look at the
            # folder misses one that is renamed meanwhile.
            if self._room < total:
                self._trim()
        return whole

    def noted(self, key: str) -> str | None:
        """What was noted under a key."""
        file = self.open(key)
        if file is None:
            return None
        with file:
            try:
                note = file.read(_NOTE).decode()
            except (OSError, ValueError):
                return None
        return note.removesuffix("\n") if note.endswith("\n") else None

    def note(self, key: str, what: str) -> None:
        """Keep a line that takes long to find out. Where it cannot be kept it is found out again."""
        with suppress(OSError, TooLarge):
            self.put(key, [f"{what}\n".encode()]).close()

    def remove(self, key: str) -> None:
        """Remove the file of `key`, if there is one and it can be removed."""
        with suppress(OSError):
            self.path(key).unlink(missing_ok=True)

    def announce(self, key: str) -> bool:
        """Say that a file of `key` is being made; False where somebody said so already. It keeps nobody from
        anything. OSError where the file system refuses."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._announced(key).open("xb").close()
        except FileExistsError:
            return False
        return True

    def is_announced(self, key: str) -> bool:
        """Whether somebody said so, and has not withdrawn it."""
        return self._announced(key).exists()

    def withdraw(self, key: str) -> None:
        """Say that no file of `key` is being made, whoever said that one is."""
        with suppress(OSError):
            self._announced(key).unlink(missing_ok=True)

    def _announced(self, key: str) -> Path:
        return self.folder / f"{_TEMPORARY}{self.path(key).name}"

    def path(self, key: str) -> Path:
        """Where the file of `key` lies, if there is one."""
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:40]

    def _claim(self, size: int) -> None:
        """Take `size` bytes of the room, after making some by removing what was used longest ago."""
        with self._lock:
            self._room -= size
            self._pending += size
            if self._room < 0:
                self._trim()

    def _trim(self) -> None:
        """Make room for what is pending and a tenth of the limit, by what was used longest ago."""
        files, total = self._look()
        goal = self.limit - self.limit // 10 - self._pending
        for _, length, path in files:
            if total <= goal:
                break
            path.unlink(missing_ok=True)
            total -= length
        self._room = max(self.limit - total - self._pending, 0) // _SHARERS

    def _look(self) -> tuple[list[tuple[float, int, Path]], int]:
        """(use, bytes, path) of the whole files, oldest use first; and the bytes of all files."""
        files = []
        total = 0
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:  # deleted by somebody meanwhile
            entries = []
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:  # another process removed or renamed it meanwhile
                continue
            if not _OURS.fullmatch(entry.name):
                continue
            if not entry.name.startswith(_TEMPORARY):
                files.append((status.st_mtime, status.st_size, Path(entry.path)))
            elif time.time() - status.st_mtime > _ABANDONED:
                Path(entry.path).unlink(missing_ok=True)
                continue
            total += status.st_size
        return sorted(files), total


def default_folder() -> Path:
    """Where the cache lies unless the config says otherwise: below the user's cache folder. BadInput where
    nobody knows that: in containers and services a user may have neither a home nor an entry in passwd."""
    own = os.environ.get("XDG_CACHE_HOME", "")
    try:
        above = Path(own) if os.path.isabs(own) else Path.home() / ".cache"  # a relative one does not count
    except RuntimeError:
        raise BadInput(
            "data.cache.folder: is needed for shards that are remote or packed as a whole and for the blocks "
            "of large corpora, and this user has no home; set it, HOME or XDG_CACHE_HOME in the environment"
        ) from None
    return above / "headrace" / "shards"
