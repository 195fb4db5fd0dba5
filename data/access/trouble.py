"""What an error of reading a shard means: trouble that passes, or not.

    Transient      another attempt may succeed: it is waited for (data/access/patience.py)
    ShardTrouble   it will not: not there, not allowed, changed

One function for each kind of source says which, from the error alone. What is not known to stay is taken to
pass: waiting costs minutes, while a unit that is skipped for an outage is lost to the run.
"""

import datetime
import email.utils
import errno
import re
import ssl
from collections.abc import Iterator

from data.errors import BadInput


class ShardTrouble(BadInput):
    """A shard that cannot be read and that reading again will not mend; says what, not which shard."""


class Transient(Exception):
    """An attempt that failed in a way that another may not."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        """wait: seconds that the far side asks to be left alone (Retry-After)."""
        super().__init__(what)
        self.wait = wait


PASSING_STATUS = frozenset((408, 425, 429))
"""Of HTTP, beside all from 500 on."""

PASSING_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        # the network, and file systems that lie behind one
        *("ESTALE", "EIO", "EREMOTEIO", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ENETRESET", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "EPIPE"),
        *("ENODEV", "ENXIO", "ENOLINK", "ECOMM", "EPROTO", "ELOOP"),  # ELOOP: an automount that fails
        # a machine that is short of something for a while
        *("EAGAIN", "EINTR", "EBUSY", "ENOMEM", "ENOBUFS", "EMFILE", "ENFILE", "EDEADLK", "ENOLCK"),
    )
    if hasattr(errno, name)
)

_CURL_STAYS = {1, 2, 3, 4, 5, 26, 37, 43, 48, 58, 60, 63, 67, 77, 78}
"""Exit codes of curl for what another attempt will not mend: a malformed URL, a login that is denied, …
5 is a proxy that does not resolve by its name in an option: taken to be mistyped."""
_CANNOT_RUN = {126: "the shell cannot execute the command", 127: "the shell does not find the command"}
_SECRET_PARTS = re.compile(
    r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?:[^\s/@'\"]*@)?(?P<rest>[^\s?#'\"<>)]*)[?#][^\s'\"<>)]*"
)
_USER_PARTS = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)[^\s/@'\"]*@")
_QUERY_PARTS = re.compile(r"(?P<path>/[^\s?'\"<>)]*)\?[^\s'\"<>)]*=[^\s'\"<>)]*")


def scrubbed(text: str) -> str:
    """A text of somebody else's, on one line, without users, passwords and queries of the URLs in it."""
    text = " ".join(text.split())
    text = _SECRET_PARTS.sub(r"\g<scheme>\g<rest>", text)
    text = _USER_PARTS.sub(r"\g<scheme>", text)
    return _QUERY_PARTS.sub(r"\g<path>", text)


def status_passes(status: int) -> bool:
    """Whether an error status of HTTP is one that passes."""
    return status in PASSING_STATUS or 500 <= status < 600


def retry_after(header: str | None, now: float) -> float:
    """Seconds that a Retry-After header (seconds, or a date of HTTP) asks to wait from `now`, a time of the
    clock; 0 where there is none, where it lies in the past or is nothing of the kind."""
    if header is None:
        return 0.0
    text = header.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        return max(date.timestamp() - now, 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def of_status(status: int, reason: str | None, header: str | None, now: float) -> ShardTrouble | Transient:
    """An answer of HTTP that is an error. header: its Retry-After."""
    what = f"HTTP {status} {reason or ''}".rstrip()
    if not status_passes(status):
        return ShardTrouble(what)
    wait = retry_after(header, now)
    return Transient(f"{what}, and asks to wait {wait:.0f} s" if wait else what, wait)


def of_local(error: OSError, *, listed: bool = False) -> ShardTrouble | Transient:
    """An error of the operating system for a file. listed: an index that was opened lists it, so that it was
    there: a file that is gone is then a file system that is."""
    what = error.strerror or str(error)
    gone = listed and error.errno in (errno.ENOENT, errno.ENOTDIR)
    return Transient(what) if gone or error.errno in PASSING_ERRNO else ShardTrouble(what)


def of_http(error: BaseException) -> ShardTrouble | Transient:
    """An error of urllib3, by what lies at its bottom."""
    error = list(_inside(error))[-1]
    if isinstance(error, ssl.SSLCertVerificationError):
        return ShardTrouble(
            f"its certificate is not trusted ({error.verify_message}); where it is signed by an authority of"
            " your own, name that authority's file in the environment: SSL_CERT_FILE=…"
        )
    if isinstance(error, TimeoutError):
        return Transient("stalled: no byte within the timeout")
    text = scrubbed(str(error) or type(error).__name__)
    if tunnel := re.search(r"Tunnel connection failed: (\d{3})", text):
        return (
            Transient(text) if status_passes(int(tunnel[1])) else ShardTrouble(f"the proxy refuses: {text}")
        )
    if "redirect" in text:
        return ShardTrouble(text)
    if isinstance(error, OSError) and error.strerror:
        return Transient(error.strerror)
    return Transient(text)


def of_fsspec(error: BaseException, now: float) -> ShardTrouble | Transient:
    """An error of one of fsspec's file systems, each of which has exceptions of its own: by the HTTP status
    or errno that it or one of its causes carries, else by its type."""
    what = scrubbed(f"{type(error).__name__}: {error}")
    for one in _inside(error):
        status, header = _status_of(one)
        if status is not None:
            wait = retry_after(header, now)
            return Transient(what, wait) if status_passes(status) else ShardTrouble(what)
        if type(one).__name__ in ("NoCredentialsError", "PartialCredentialsError", "LocalTokenNotFoundError"):
            return ShardTrouble(what)
        if isinstance(one, ImportError):
            return ShardTrouble(f"{scrubbed(str(one))}; pip install 'headrace[remote]'")
        if isinstance(one, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
            return ShardTrouble(one.strerror or "no such file, or not allowed")
        if isinstance(one, TimeoutError | ConnectionError):
            return Transient(what)
        if isinstance(one, OSError) and one.errno is not None and one.errno > 0:
            return Transient(what) if one.errno in PASSING_ERRNO else ShardTrouble(what)
    # Of the error itself: a library may have met one of these on its way to another.
    if isinstance(error, ValueError):
        return ShardTrouble(scrubbed(str(error)))
    if isinstance(error, TypeError | LookupError | AttributeError | NotImplementedError):
        return ShardTrouble(what)
    return Transient(what)


def of_command(command: str, code: int) -> ShardTrouble | Transient:
    """A shell command that ended with an exit code other than 0. What that means is the command's own affair,
    so it stays only where that is known: of the shell, and of curl alone in its command."""
    if code in _CANNOT_RUN:
        return ShardTrouble(f"{_CANNOT_RUN[code]} (exit code {code})")
    words = command.split()
    alone = words and words[0].rpartition("/")[2] == "curl" and not set("|;&") & set(command)
    if alone and code in _CURL_STAYS:
        return ShardTrouble(f"curl ended with exit code {code}")
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return Transient(f"the command {how}")


def _inside(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it stands for, down to the bottom: reasons, causes, errors among its arguments."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        candidates = (getattr(inner, "reason", None), inner.__cause__, *inner.args)
        inner = next((found for found in candidates if isinstance(found, BaseException)), None)


def _status_of(error: BaseException) -> tuple[int | None, str | None]:
    """The HTTP status that an error carries and its Retry-After, where it carries any: requests and httpx
    (.response), botocore (.response as a mapping), aiohttp, gcsfs, azure (.status, .code, .status_code)."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    if isinstance(response, dict):
        about = response.get("ResponseMetadata", {})
        headers = about.get("HTTPHeaders")
        found = [about.get("HTTPStatusCode")]
    else:
        found = [getattr(response, "status_code", None), getattr(response, "status", None)]
        found += [getattr(error, name, None) for name in ("status", "status_code", "code")]
    for value in found:
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            after = None
            if headers is not None and hasattr(headers, "get"):
                after = headers.get("Retry-After") or headers.get("retry-after")
            return value, after
    return None, None
