"""Where shards lie and how their bytes are read: local files, http(s), fsspec's file systems, `pipe:`.

    units ──▶ Store.read ─┬─ local ──────────────────────────────── pread
                          ├─ remote, ranges ─────────────────────── one request, kept in the cache
                          └─ pipe, no ranges, packed as a whole ─── once into the cache, pread

Each of them is tried again while its trouble may pass (patience.py). Reading never depends on what the cache
holds, only its speed does.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import BinaryIO, TypeVar

import numpy as np
from braceexpand import braceexpand

from data.access.cache import Cache, CacheOptions, TooLarge, default_folder
from data.access.compression import unpack
from data.access.http import Http
from data.access.patience import Patience
from data.access.transports import Fsspec, NoRanges, Pipe, Status, Transport, is_local, place, shown
from data.access.trouble import PASSING_ERRNO, ShardTrouble, Transient, of_local
from data.errors import BadInput
from data.shards.index import Stored
from data.shards.walk import Found, Walk, meant

Result = TypeVar("Result")
_CHUNK = 1 << 20
_REQUEST = 8 << 20


class CutOff(ShardTrouble):
    """A file ends before what was indexed does: the shard's, or one in the cache that another shard left."""


def expand(shards: Sequence[str], patience: Patience | None = None) -> list[str]:
    """The shards that paths, globs, URLs and braces ({000..099}, {a,b}) name, in order, under every name that
    they have: an index may list any of them.

    BadInput where a path or a glob matches nothing; PassingTrouble where nobody tells what a glob matches.
    """
    walk = find_shards(shards, Walk(), patience)
    return walk.files + walk.again


def find_shards(shards: Sequence[str], walk: Walk, patience: Patience | None = None) -> Walk:
    """The walk that has met the shards, each file once; see `expand`."""
    for pattern in shards:
        for name in braces(pattern):
            if is_local(name):
                walk.add(_local(name))
            else:
                walk.take(_remote(name, patience or Patience()))
    if not walk.files:
        passed = "; ".join(walk.lines())
        given = ", ".join(map(shown, shards))
        raise BadInput(f"{given}: no shard to read: {passed}" if passed else "no shards were given")
    return walk


def braces(pattern: str) -> list[str]:
    """The names that braces stand for, without file://. BadInput where they are not balanced."""
    try:
        names = list(braceexpand(pattern)) if re.search(r"\{.*(\.\.|,).*\}", pattern) else [pattern]
    except ValueError as error:
        raise BadInput(f"{shown(pattern)}: unbalanced braces") from error
    return [name.removeprefix("file://") for name in names]


def _local(name: str) -> list[Found]:
    found = meant(name)
    if not found:
        hint = "; [ ] in a path are read as a glob: name the shards one by one" if "[" in name else ""
        raise BadInput(f"{name}: no such shard{hint}")
    if found[0].path == name and found[0].folder:
        raise BadInput(f"{name}: is a folder; name the shards in it: '{os.path.join(name, '*.tar')}'")
    if found[0].path == name and found[0].reason:
        raise BadInput(f"{name}: {found[0].reason}, expected a shard")
    return found


def _remote(name: str, patience: Patience) -> list[str]:
    if name.startswith("pipe:") and os.environ.get("WDS_SECURE", "0") != "0":
        raise BadInput(
            f"{shown(name)}: is a command, and WDS_SECURE is set: webdataset then runs none; unset it, or "
            "name the shards by their paths or URLs"
        )
    if name.startswith(("pipe:", "http://", "https://")) or not re.search(r"[*?\[]", name):
        return [name]
    try:
        found = patience.keep_trying(shown(name), place(name), 1.0, lambda: Fsspec().glob(name))
    except ShardTrouble as error:
        raise BadInput(f"{shown(name)}: {error}") from error
    if not found:
        raise BadInput(f"{shown(name)}: no such shard")
    return found


class Store:
    """Reads bytes of shards. May be used from several threads; connections are kept between reads.

    Trouble that passes is waited for in every method, and is PassingTrouble where it outlasts the patience.
    """

    def __init__(self, options: CacheOptions | None = None, patience: Patience | None = None) -> None:
        self.options = options or CacheOptions()
        self.patience = patience or Patience()
        self._http = Http(self.options.timeout)
        self._fsspec = Fsspec()
        self._pipe = Pipe(self.options.timeout)
        self._rangeless: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}

    @cached_property
    def cache(self) -> Cache:
        """Made when something is to be kept: local shards that are not packed need no folder, and no home.
        BadInput where its folder is not known."""
        return Cache(self.options.folder or default_folder(), self.options.bytes)

    def found_out(self, key: str, make: Callable[[], str | None]) -> str | None:
        """make(), a line that follows from what `key` names alone; or what the cache has noted of it. None is
        not noted."""
        try:
            cache = self.cache
        except BadInput:  # no folder for it
            return make()
        known = cache.noted(key)
        if known is None and (known := make()) is not None:
            cache.note(key, known)
        return known

    def status(self, url: str) -> Status:
        """Size and mtime of a shard. Raises ShardTrouble."""

        def local() -> Status:
            with _local_errors():
                status = os.stat(url)
            return Status(status.st_size, status.st_mtime_ns)

        if url.startswith("pipe:"):
            return self._pipe.status(url)  # runs nothing, so it is no sign that the command works again
        return self._patiently(url, local if is_local(url) else lambda: self._transport(url).status(url))

    def read(self, url: str, shard: Stored, units: np.ndarray, *, fresh: bool = False) -> bytes:
        """The tar bytes of consecutive units of one shard (rows of index.UNITS).

        fresh: do not trust the cache, fetch again. Raises ShardTrouble, never returns too few bytes.
        """
        first, last = units[0], units[-1]
        offset = int(first["offset"])
        length = int(last["offset"]) + int(last["length"]) - offset
        if shard.packing != "plain" and not units["stored_length"].all():
            with self.unpacked(url, shard, fresh=fresh) as tar:
                return _kept_bytes(tar, offset, length)
        start = int(first["stored_offset"])
        stored = self._range(
            url, shard, start, int(last["stored_offset"] + last["stored_length"]) - start, fresh
        )
        if shard.packing == "plain":
            return stored
        data = b"".join(unpack([stored], shard.packing))
        if len(data) != length:
            raise ShardTrouble(f"{len(data)} bytes were packed where {length} had been indexed")
        return data

    def fetched(self, url: str) -> BinaryIO:
        """The whole shard as it is, opened: the file itself, or a fresh copy in the cache."""

        def local() -> BinaryIO:
            with _local_errors():
                return open(url, "rb")

        if is_local(url):
            return self._patiently(url, local)
        return self._keep(url, _whole(url, self.status(url).size), lambda: self._chunks(url), fresh=True)

    def unpacked(self, url: str, shard: Stored, *, fresh: bool = False) -> BinaryIO:
        """The tar of a shard that was packed as a whole, opened in the cache."""
        key = unpacked_key(url, shard.size, shard.mtime_ns)
        return self._keep(url, key, lambda: unpack(self._chunks(url), shard.packing), fresh)

    def _range(self, url: str, shard: Stored, offset: int, length: int, fresh: bool) -> bytes:
        def local() -> bytes:
            with _local_errors(listed=True), open(url, "rb", buffering=0) as file:
                return _pread(file, offset, length)

        def remote() -> bytes:
            data = self._transport(url).read(url, offset, length, shard.size)
            self.put(key, [data]).close()
            return data

        if is_local(url):
            return self._patiently(url, local)
        if url not in self._rangeless:
            key = f"{url} {shard.size} {shard.mtime_ns} {offset}+{length}"
            try:
                kept = None if fresh else self.cache.open(key)
                if kept is None:
                    return self._patiently(url, remote)
                with kept:
                    return _kept_bytes(kept, 0, length)
            except NoRanges:
                self._rangeless.add(url)
        with self._keep(url, _whole(url, shard.size), lambda: self._chunks(url), fresh) as file:
            return _kept_bytes(file, offset, length)

    def _keep(self, url: str, key: str, chunks: Callable[[], Iterable[bytes]], fresh: bool) -> BinaryIO:
        """The cached file of `key`, made from chunks() where there is none; by one thread at a time."""
        with self._locks.setdefault(key, threading.Lock()):
            kept = None if fresh else self.cache.open(key)
            return kept or self._patiently(url, lambda: self.put(key, chunks()))

    def put(self, key: str, chunks: Iterable[bytes]) -> BinaryIO:
        """Chunks into the cache, and the file of them. BadInput where it does not fit; Transient for trouble
        that passes."""
        cache = self.cache
        try:
            return cache.put(key, chunks)
        except TooLarge:
            raise BadInput(
                f"data.cache.bytes is {cache.limit}, too little for one file; raise it or set "
                "data.cache.folder to a larger disk"
            ) from None
        except OSError as error:
            what = f"{cache.folder} (data.cache.folder): {error.strerror or error}"
            raise (Transient(what) if error.errno in PASSING_ERRNO else BadInput(what)) from error

    def _chunks(self, url: str) -> Iterator[bytes]:
        """The whole shard as it is, by requests of a few megabytes where the far side serves ranges."""
        if is_local(url):
            with _local_errors(listed=True), open(url, "rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
            return
        transport = self._transport(url)
        if url not in self._rangeless:
            size = self.status(url).size
            try:
                for offset in range(0, size, _REQUEST):
                    length = min(_REQUEST, size - offset)
                    yield self._patiently(url, partial(transport.read, url, offset, length, size))
                if size:
                    return
            except NoRanges:
                if offset:
                    raise Transient("the server served ranges and then no more") from None
                self._rangeless.add(url)
        yield from transport.stream(url)

    def _transport(self, url: str) -> Transport:
        if url.startswith(("http://", "https://")):
            return self._http
        return self._pipe if url.startswith("pipe:") else self._fsspec

    def _patiently(self, url: str, attempt: Callable[[], Result]) -> Result:
        """attempt(), again while it raises Transient and the patience lasts."""
        return self.patience.keep_trying(shown(url), place(url), self.options.backoff, attempt)


@contextlib.contextmanager
def _local_errors(*, listed: bool = False) -> Iterator[None]:
    """Turns the operating system's errors into ShardTrouble and Transient. listed: as of trouble.of_local."""
    try:
        yield
    except OSError as error:
        raise of_local(error, listed=listed) from error


def _whole(url: str, size: int) -> str:
    """The cache's key of a shard as it is. A command's output has no size before it ran."""
    return f"{url} whole" if url.startswith("pipe:") else f"{url} {size} whole"


def unpacked_key(url: str, size: int, mtime_ns: int) -> str:
    """The cache's key of a shard's unpacked tar; size and mtime as the index records them."""
    return f"{os.path.abspath(url) if is_local(url) else url} {size} {mtime_ns} unpacked"


def _kept_bytes(file: BinaryIO, offset: int, length: int) -> bytes:
    """Of a file in the cache: one that cannot be read counts as cut off, for it can be fetched again."""
    try:
        return _pread(file, offset, length)
    except OSError as error:
        raise CutOff(f"its copy in the cache (data.cache.folder) cannot be read: {error.strerror}") from error


def _pread(file: BinaryIO, offset: int, length: int) -> bytes:
    parts = []
    left = length
    while left and (part := os.pread(file.fileno(), left, offset)):
        parts.append(part)
        offset += len(part)
        left -= len(part)
    if left:
        raise CutOff(f"cut off: it ends at byte {offset}, {left} bytes too early")
    return parts[0] if len(parts) == 1 else b"".join(parts)
