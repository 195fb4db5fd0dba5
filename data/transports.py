"""One attempt at reading a shard that is not local: http(s), fsspec's file systems, a `pipe:` command.

Each transport tells apart what another attempt may mend (Transient: refused, stalled, cut off, an error of
the server) from what it will not (ShardTrouble: not there, not allowed, changed). Retrying is the store's
matter.

http is read with urllib and not with fsspec's aiohttp: one request a read, with a deadline, whose length and
place are checked against what was asked for, so a body that was cut off can never pass for a whole one.
"""

import contextlib
import email.utils
import http.client
import os
import re
import select
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import fsspec

from data.errors import BadInput

_CHUNK = 1 << 20
_SLOWEST = 10_000
"""Bytes a second below which a transfer counts as stalled even though something trickles in."""
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))


class ShardTrouble(BadInput):
    """A shard that cannot be read and that reading again will not mend; says what, not which shard."""


class Transient(Exception):
    """An attempt that failed in a way that another may not."""


class NoRanges(Exception):
    """The server sends the whole file whatever range it is asked for."""


class Status(NamedTuple):
    """size in bytes; mtime_ns 0 where it is not known."""

    size: int
    mtime_ns: int


class Transport(Protocol):
    """How the store reads URLs of one kind."""

    def status(self, url: str) -> Status: ...

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """Exactly bytes offset … offset+length−1 of a file that should have `size` bytes in all."""

    def stream(self, url: str) -> Iterator[bytes]:
        """The whole file, in chunks."""


class Http:
    """http:// and https://."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def status(self, url: str) -> Status:
        with self._answers(url, "bytes=0-0") as response:  # and not HEAD: a signed URL allows GET alone
            stamp = response.headers.get("Last-Modified")
            seconds = email.utils.mktime_tz(parsed) if (parsed := email.utils.parsedate_tz(stamp)) else 0
            if response.status == 206:
                return Status(_content_range(response)[1], seconds * 10**9)
            length = response.headers.get("Content-Length")
            if length is None:
                raise ShardTrouble("the server tells no size and serves no ranges")
            return Status(int(length), seconds * 10**9)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        with self._answers(url, f"bytes={offset}-{offset + length - 1}") as response:
            if response.status != 206:
                raise NoRanges
            first, total = _content_range(response)
            if total != size:
                raise ShardTrouble(f"has {total} bytes and had {size} when it was indexed")
            if first != offset:
                raise Transient(f"the server sent bytes from {first} instead of {offset}")
            return b"".join(self._body(response, length))

    def stream(self, url: str) -> Iterator[bytes]:
        with self._answers(url, None) as response:
            expected = response.headers.get("Content-Length")
            yield from self._body(response, None if expected is None else int(expected))

    def _body(self, response: Any, length: int | None) -> Iterator[bytes]:
        """The body in parts, as they come; exactly `length` bytes where that is known."""
        begun = time.monotonic()
        got = 0
        while part := response.read1(_CHUNK):
            got += len(part)
            yield part
            if time.monotonic() - begun > self.timeout + got / _SLOWEST:
                raise Transient(f"stalled: {got} bytes in {time.monotonic() - begun:.0f} s")
        if length is not None and got != length:
            raise Transient(f"cut off after {got} of {length} bytes")

    @contextlib.contextmanager
    def _answers(self, url: str, range_: str | None) -> Iterator[Any]:
        """The response to a GET; errors of the transfer inside the `with` become Transient too."""
        request = urllib.request.Request(url, headers={"User-Agent": "headrace"})
        if range_ is not None:
            request.add_header("Range", range_)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                yield response
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _PASSING:
                raise Transient(f"HTTP {error.code} {error.reason}") from error
            if error.code == 416:
                raise ShardTrouble("is empty, or shorter than when it was indexed (HTTP 416)") from error
            raise ShardTrouble(f"HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise Transient(_plain(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Transient(_plain(error)) from error


def _plain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "stalled: no byte within the timeout"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


def _content_range(response: Any) -> tuple[int, int]:
    """(first byte, size of the whole) of a partial answer."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", text.strip())
    if found is None:
        raise Transient(f"the server answered with Content-Range {text!r}")
    return int(found[1]), int(found[2])


class Fsspec:
    """s3://, gs://, memory:// and whatever else fsspec knows."""

    def status(self, url: str) -> Status:
        with _fsspec_errors():
            filesystem, path = fsspec.core.url_to_fs(url)
            details = filesystem.info(path)
        stamp = details.get("LastModified") or details.get("mtime") or details.get("created")
        seconds = stamp.timestamp() if hasattr(stamp, "timestamp") else stamp
        mtime = int(seconds * 1e9) if isinstance(seconds, int | float) else 0
        return Status(int(details["size"]), mtime)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        with _fsspec_errors():
            filesystem, path = fsspec.core.url_to_fs(url)
            data = filesystem.cat_file(path, start=offset, end=offset + length)
        if len(data) != length:
            raise Transient(f"cut off after {len(data)} of {length} bytes from byte {offset}")
        return bytes(data)

    def stream(self, url: str) -> Iterator[bytes]:
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
    except ImportError as error:
        raise ShardTrouble(f"{error}; pip install 'headrace[remote]'") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ShardTrouble(error.strerror or "no such file, or not allowed") from error
    except ValueError as error:
        raise ShardTrouble(str(error)) from error
    except Exception as error:  # each file system has its own exceptions for a bad line
        raise Transient(f"{type(error).__name__}: {error}") from error


class Pipe:
    """`pipe:COMMAND`: what a shell command prints, by webdataset's gopen. It has no ranges and no size."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def status(self, url: str) -> Status:
        return Status(0, 0)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        raise NoRanges

    def stream(self, url: str) -> Iterator[bytes]:
        from webdataset.gopen import gopen  # here, since it imports torch and only these URLs need it

        pipe = gopen(url, "rb")
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
                raise Transient(f"the command ended with exit code {code}")
        finally:
            pipe.proc.kill()
            pipe.proc.wait()
            pipe.stream.close()
