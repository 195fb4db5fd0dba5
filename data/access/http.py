"""http:// and https://, read with urllib3 and not with fsspec's aiohttp: one request a read, with a deadline,
whose length and place are checked against what was asked for, so a body that was cut off can never pass for a
whole one. Connections are kept between reads, since a TLS handshake costs more than the 64 KB of a unit.

    url ── login of its host ──▶ GET, redirects followed here ──▶ status ──▶ bytes, as they are stored

Redirects are followed here and not by urllib3, so that each host is sent its own login, through its own
proxy, and nothing else. Bytes are asked for as they are (identity); what a server packs all the same on its
way is undone.
"""

import contextlib
import email.utils
import os
import re
import ssl
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import urllib3

from data.access.http_login import VARIABLE, Login
from data.access.transports import NoRanges, Status
from data.access.trouble import ShardTrouble, Transient, of_http, of_status, scrubbed

_CHUNK = 1 << 20
_SLOWEST = 10_000
"""Bytes a second below which a transfer counts as stalled even though something trickles in."""
_CONNECTIONS = 64
"""That are kept to one server; more threads than these read as well."""
_REDIRECTS = 10
_PACKED = re.compile(r"(?i)\.(gz|tgz|zst|zstd|br|xz|bz2)$")
"""Names of files that are packed themselves: a Content-Encoding then speaks of the file, not of its way."""


class Http:
    """Through the proxies of the environment. May be used from several threads."""

    def __init__(self, timeout: float) -> None:
        """timeout: seconds without a byte."""
        self.timeout = timeout
        self._login = Login()
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._process = os.getpid()

    def status(self, url: str) -> Status:
        """Size, and mtime where the server tells it."""
        with self._answer(url, "bytes=0-0") as response:  # and not HEAD: a signed URL allows GET alone
            mtime = _mtime(response.headers.get("Last-Modified"))
            if response.status == 206:
                response.read()  # so that the connection can serve the next request
                return Status(_content_range(response)[1], mtime)
            length = _length(response)
            if length is None:
                raise ShardTrouble("the server tells no size and serves no ranges")
            return Status(length, mtime)

    def read(self, url: str, offset: int, length: int, size: int) -> bytes:
        """See Transport.read."""
        with self._answer(url, f"bytes={offset}-{offset + length - 1}") as response:
            if response.status != 206:
                raise NoRanges
            first, total = _content_range(response)
            encoding = _encoding(response)
            if total != size:
                what = f"has {total} bytes and had {size} when it was indexed"
                raise _changed_on_the_way(encoding, what) if encoding else ShardTrouble(what)
            if first != offset:
                raise Transient(f"the server sent bytes from {first} instead of {offset}")
            data = b"".join(self._body(response))
            if len(data) == length:
                return data
            if not encoding:
                raise Transient(f"cut off after {len(data)} of {length} bytes")
            _require_whole(response)
            data = b"".join(decoded(iter([data]), encoding))
            if len(data) != length:
                raise _changed_on_the_way(encoding, f"{len(data)} bytes came where {length} were asked for")
            return data

    def stream(self, url: str) -> Iterator[bytes]:
        """See Transport.stream."""
        with self._answer(url, None) as response:
            encoding = _encoding(response)
            body = self._body(response)
            if encoding and not _PACKED.search(urllib.parse.urlsplit(url).path):
                body = decoded(body, encoding)
            yield from body
            _require_whole(response)

    def _body(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body in parts, as they come over the wire."""
        begun = time.monotonic()
        got = 0
        while part := response.read1(_CHUNK, decode_content=False):
            got += len(part)
            yield part
            if time.monotonic() - begun > self.timeout + got / _SLOWEST:
                raise Transient(f"stalled: {got} bytes in {time.monotonic() - begun:.0f} s")

    @contextlib.contextmanager
    def _answer(self, url: str, range_: str | None) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response to a GET; errors of the transfer inside the `with` are told apart too.

        Leaving before the end of the body closes the connection; else the next request uses it.
        """
        try:
            response = self._get(url, range_)
            with contextlib.closing(response):
                if response.status == 416:
                    raise ShardTrouble("is empty, or shorter than when it was indexed (HTTP 416)")
                if response.status >= 300:
                    raise self._refusal(response)
                yield response
        except (urllib3.exceptions.LocationValueError, UnicodeError) as error:
            raise ShardTrouble(f"is not a URL that can be asked for: {scrubbed(str(error))}") from None
        except urllib3.exceptions.HTTPError as error:
            raise of_http(error) from None  # its own text has the query of the URL

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> ShardTrouble | Transient:
        header = response.headers.get("Retry-After")
        trouble = of_status(response.status, response.reason, header, time.time())
        if response.status not in (401, 403, 407):
            return trouble
        why = f" ({self._login.obstacle})" if self._login.obstacle else ""
        return ShardTrouble(f"{trouble}: a login belongs into .netrc or {VARIABLE}{why}")

    def _get(self, url: str, range_: str | None) -> urllib3.BaseHTTPResponse:
        """The answer at the end of all redirects."""
        for hop in range(_REDIRECTS + 1):
            bare, authorization = self._login.of(url, redirected=hop > 0)
            headers = {"User-Agent": "headrace", "Accept-Encoding": "identity"}
            if range_ is not None:
                headers["Range"] = range_
            if authorization is not None:
                headers["Authorization"] = authorization
            response = self._pool(bare).request(
                "GET",
                bare,
                headers=headers,
                redirect=False,
                preload_content=False,
                enforce_content_length=False,
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.drain_conn()
            url = urllib.parse.urljoin(bare, location)
            if not url.startswith(("http://", "https://")):
                raise ShardTrouble(
                    f"the server redirects to {url.partition(':')[0]}:, expected http or https"
                )
        raise ShardTrouble("too many redirects")

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


def decoded(parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """What a Content-Encoding was put on. ShardTrouble for one that is not known here, or is not in the
    bytes."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _changed_on_the_way(encoding, "which cannot be undone here")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for part in parts:
            if data := inflate.decompress(part):
                yield data
        yield inflate.flush()
    except zlib.error as error:
        raise _changed_on_the_way(encoding, str(error)) from error


def _changed_on_the_way(encoding: str, what: str) -> ShardTrouble:
    return ShardTrouble(
        f"the server packs it on its way (Content-Encoding: {encoding[:40]}) though it was asked not to: "
        f"{what}; have it serve shards as they are"
    )


def _encoding(response: urllib3.BaseHTTPResponse) -> str:
    """In lower case; empty for none."""
    encoding = str(response.headers.get("Content-Encoding", "")).strip().lower()
    return "" if encoding == "identity" else encoding


def _require_whole(response: urllib3.BaseHTTPResponse) -> None:
    """Transient where fewer bytes came than the server had announced."""
    announced, came = _length(response), response.tell()
    if announced is not None and came != announced:
        raise Transient(f"cut off after {came} of {announced} bytes")


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    """Bytes that are to come over the wire, where the server says so."""
    text = str(response.headers.get("Content-Length", "")).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _mtime(stamp: str | None) -> int:
    """Nanoseconds of a date of HTTP; 0 where there is none."""
    try:
        parsed = email.utils.parsedate_tz(stamp)
        return email.utils.mktime_tz(parsed) * 10**9 if parsed else 0
    except (ValueError, OverflowError, TypeError):
        return 0


def _content_range(response: urllib3.BaseHTTPResponse) -> tuple[int, int]:
    """(first byte, size of the whole) of a partial answer."""
    text = str(response.headers.get("Content-Range", ""))
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", text.strip())
    if found is None:
        raise ShardTrouble(f"the server answered with Content-Range {text[:80]!r}, expected bytes and a size")
    return int(found[1]), int(found[2])


def _connections(proxy: str | None, timeout: float) -> urllib3.PoolManager:
    """Connections that trust what Python's ssl trusts (SSL_CERT_FILE), and never retry."""
    options: dict[str, Any] = {
        "retries": urllib3.Retry(total=None, connect=0, read=0, other=0, redirect=0),
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
