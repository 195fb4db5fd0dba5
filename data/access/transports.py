"""Where the URL of a shard leads, and one attempt at reading what is not local: fsspec's file systems, a
`pipe:` command; http(s) is http.py.

Each transport raises Transient or ShardTrouble, as data/access/trouble.py tells them apart. Trying again is
the matter of data/access/patience.py.
"""

import contextlib
import os
import select
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import fsspec

from data.access.trouble import Transient, of_command, of_fsspec, of_local
from data.errors import BadInput

_CHUNK = 1 << 20


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine."""
    return "://" not in url and not url.startswith("pipe:")


def shown(url: str) -> str:
    """A URL for messages and indexes: without user, password and query, which may be secrets. BadInput for
    what is none."""
    if url.startswith("pipe:"):
        words = url.removeprefix("pipe:").split()
        return f"pipe:{words[0] if words else ''} #{zlib.crc32(url.encode()):08x}"
    if is_local(url):
        return url
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise BadInput(f"{url.partition('://')[0]}://…: is not a URL ({error})") from error
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def place(url: str) -> str:
    """What an outage would take with it: the server of a URL, the folder of a file. Without secrets."""
    if url.startswith("pipe:"):
        return shown(url)
    if is_local(url):
        return os.path.dirname(url) or "."
    parts = urllib.parse.urlsplit(shown(url))
    return f"{parts.scheme}://{parts.netloc}"


class NoRanges(Exception):
    """The server sends the whole file whatever range it is asked for."""


class Status(NamedTuple):
    """size in bytes; mtime_ns 0 where it is not known."""

    size: int
    mtime_ns: int


class Transport(Protocol):
    """How the store reads URLs of one kind."""

    def status(self, url: str) -> Status:
        """Size and mtime of a file."""

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """Exactly bytes offset … offset+length−1 of a file that should have `size` bytes in all."""

    def stream(self, url: str) -> Iterator[bytes]:
        """The whole file, in chunks."""


class Fsspec:
    """s3://, gs://, memory:// and whatever else fsspec knows."""

    def status(self, url: str) -> Status:
        """Size, and mtime where the file system tells it."""
        with _fsspec_errors():
            filesystem, path = fsspec.core.url_to_fs(url)
            details = filesystem.info(path)
        stamp = details.get("LastModified") or details.get("mtime") or details.get("created")
        seconds = stamp.timestamp() if hasattr(stamp, "timestamp") else stamp
        mtime = int(seconds * 1e9) if isinstance(seconds, int | float) else 0
        return Status(int(details["size"]), mtime)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """See Transport.read."""
        with _fsspec_errors():
            filesystem, path = fsspec.core.url_to_fs(url)
            data = filesystem.cat_file(path, start=offset, end=offset + length)
        if len(data) != length:
            raise Transient(f"cut off after {len(data)} of {length} bytes from byte {offset}")
        return bytes(data)

    def stream(self, url: str) -> Iterator[bytes]:
        """See Transport.stream."""
        size = self.status(url).size
        for offset in range(0, size, _CHUNK):
            yield self.read(url, offset, min(_CHUNK, size - offset), size)

    def glob(self, url: str) -> list[str]:
        """The URLs that a pattern matches, by name."""
        with _fsspec_errors():
            filesystem, path = fsspec.core.url_to_fs(url)
            return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path))


@contextlib.contextmanager
def _fsspec_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise of_fsspec(error, time.time()) from None  # its text may have a signed URL


class Pipe:
    """`pipe:COMMAND`: what a shell command prints, by webdataset's gopen. It has no ranges and no size."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def status(self, url: str) -> Status:
        """Nothing is known before the command ran."""
        return Status(0, 0)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """Never: NoRanges."""
        raise NoRanges

    def stream(self, url: str) -> Iterator[bytes]:
        """What the command prints. Transient where it stalls or fails."""
        from webdataset.gopen import gopen  # here, since it imports torch and only these URLs need it

        try:
            pipe = gopen(url, "rb")
        except OSError as error:
            raise of_local(error) from error
        output = pipe.proc.stdout.fileno()
        try:
            while True:
                if not select.select([output], [], [], self.timeout)[0]:
                    raise Transient(f"stalled: the command printed nothing for {self.timeout:.0f} s")
                part = os.read(output, _CHUNK)
                if not part:
                    break
                yield part
            code = pipe.proc.wait(self.timeout)
            if code:
                raise of_command(url.removeprefix("pipe:"), code)
        finally:
            pipe.proc.kill()
            pipe.proc.wait()
            pipe.stream.close()
