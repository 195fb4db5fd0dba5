"""One attempt at reading a shard that is not local: http(s), fsspec's file systems, a `pipe:` command.

Each transport tells apart what another attempt may mend (Transient: refused, stalled, cut off, an error of
the server) from what it will not (ShardTrouble: not there, not allowed, changed). Retrying is the store's
matter.

http is read with urllib3 and not with fsspec's aiohttp: one request a read, with a deadline, whose length and
place are checked against what was asked for, so a body that was cut off can never pass for a whole one.
Connections are kept between reads, since a TLS handshake costs more than the 64 KB of a unit.
"""

import contextlib
import email.utils
import os
import re
import select
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import fsspec
import urllib3

from data.errors import BadInput

_CHUNK = 1 << 20
_SLOWEST = 10_000
"""Bytes a second below which a transfer counts as stalled even though something trickles in."""
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_CONNECTIONS = 64
"""That are kept to one server; more threads than these read as well."""


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

    def status(self, url: str) -> Status:
        """Size and mtime of a file."""

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """Exactly bytes offset … offset+length−1 of a file that should have `size` bytes in all."""

    def stream(self, url: str) -> Iterator[bytes]:
        """The whole file, in chunks."""


class Http:
    """http:// and https://, through the proxies of the environment. May be used from several threads."""

    def __init__(self, timeout: float) -> None:
        """timeout: seconds without a byte."""
        self.timeout = timeout
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._process = os.getpid()

    def status(self, url: str) -> Status:
        """Size, and mtime where the server tells it."""
        with self._answers(url, "bytes=0-0") as response:  # and not HEAD: a signed URL allows GET alone
            stamp = response.headers.get("Last-Modified")
            seconds = email.utils.mktime_tz(parsed) if (parsed := email.utils.parsedate_tz(stamp)) else 0
            if response.status == 206:
                response.read()  # so that the connection can serve the next request
                return Status(_content_range(response)[1], seconds * 10**9)
            length = response.headers.get("Content-Length")
            if length is None:
                raise ShardTrouble("the server tells no size and serves no ranges")
            return Status(int(length), seconds * 10**9)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """See Transport.read."""
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
        """See Transport.stream."""
        with self._answers(url, None) as response:
            expected = response.headers.get("Content-Length")
            yield from self._body(response, None if expected is None else int(expected))

    def _body(self, response: urllib3.BaseHTTPResponse, length: int | None) -> Iterator[bytes]:
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
    def _answers(self, url: str, range_: str | None) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response to a GET; errors of the transfer inside the `with` become Transient too.

        Leaving before the end of the body closes the connection; else the next request uses it.
        """
        headers = {"User-Agent": "headrace", "Accept-Encoding": "identity"}
        if range_ is not None:
            headers["Range"] = range_
        try:
            response = self._pool(url).request(
                "GET", url, headers=headers, preload_content=False, enforce_content_length=False
            )
            with contextlib.closing(response):
                if response.status in _PASSING:
                    raise Transient(f"HTTP {response.status} {response.reason}")
                if response.status == 416:
                    raise ShardTrouble("is empty, or shorter than when it was indexed (HTTP 416)")
                if response.status >= 300:
                    raise ShardTrouble(f"HTTP {response.status} {response.reason}")
                yield response
        except urllib3.exceptions.LocationValueError as error:
            raise ShardTrouble(str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise _trouble(error) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections to use; none that this process shares with the one that it was forked from."""
        if self._process != os.getpid():
            self._pools, self._process = {}, os.getpid()
        parts = urllib3.util.parse_url(url)
        proxy = urllib.request.getproxies().get(parts.scheme or "")
        if proxy is not None and urllib.request.proxy_bypass(parts.netloc or ""):
            proxy = None
        if proxy not in self._pools:
            self._pools[proxy] = _connections(proxy, self.timeout)
        return self._pools[proxy]


def _connections(proxy: str | None, timeout: float) -> urllib3.PoolManager:
    """Connections that trust what Python's ssl trusts (SSL_CERT_FILE), follow redirects and never retry."""
    options: dict[str, Any] = {
        "retries": urllib3.Retry(total=None, connect=0, read=0, other=0, redirect=10),
        "timeout": timeout,
        "maxsize": _CONNECTIONS,
        "ssl_context": ssl.create_default_context(),
    }
    if proxy is None:
        return urllib3.PoolManager(**options)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    auth = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=urllib.parse.unquote(auth)) if auth else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)


def _trouble(error: BaseException) -> ShardTrouble | Transient:
    """What lies at the bottom of an error of urllib3, in plain words."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        candidates = (getattr(error, "reason", None), error.__cause__, *error.args)
        inner = next((found for found in candidates if isinstance(found, BaseException)), None)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ShardTrouble(
            f"its certificate is not trusted ({error.verify_message}); where it is signed by an authority of"
            " your own, name that authority's file in the environment: SSL_CERT_FILE=…"
        )
    if isinstance(error, TimeoutError):
        return Transient("stalled: no byte within the timeout")
    if isinstance(error, OSError) and error.strerror:
        return Transient(error.strerror)
    return Transient(str(error) or type(error).__name__)


def _content_range(response: urllib3.BaseHTTPResponse) -> tuple[int, int]:
    """(first byte, size of the whole) of a partial answer."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", text.strip())
    if found is None:
        raise Transient(f"the server answered with Content-Range {text!r}")
    return int(found[1]), int(found[2])


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
        """Nothing is known before the command ran."""
        return Status(0, 0)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """Never: NoRanges."""
        raise NoRanges

    def stream(self, url: str) -> Iterator[bytes]:
        """What the command prints. Transient where it stalls or fails."""
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
