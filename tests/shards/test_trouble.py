"""Which trouble of a shard passes and which stays, who is told of it, and which login goes where."""

import base64
import email.utils
import errno
import os
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3

from data.access import patience as patience_module
from data.access.cache import CacheOptions
from data.access.http_login import Login
from data.access.patience import Patience
from data.access.trouble import (
    ShardTrouble,
    Transient,
    of_command,
    of_fsspec,
    of_http,
    of_local,
    of_status,
    retry_after,
    scrubbed,
)
from data.errors import BadInput, PassingTrouble
from data.prepare.build_index import build_index
from data.shards.corpus import ReadTrouble, open_corpus
from tests.shards.test_pack import TEXTS, read
from tests.support.helpers import pack_texts
from tests.support.shard_server import Server

NOW = 1_700_000_000.0


@pytest.fixture
def options(tmp_path: Path) -> CacheOptions:
    return CacheOptions(str(tmp_path / "cache"), bytes=100_000_000, backoff=0.01, timeout=0.5)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 599])
def test_statuses_that_pass(status: int) -> None:
    assert isinstance(of_status(status, "x", None, NOW), Transient)


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 405, 410, 416, 418, 451])
def test_statuses_that_stay(status: int) -> None:
    assert isinstance(of_status(status, "x", "5", NOW), ShardTrouble)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Wed, 99 Xyz 2026 00:00:00 GMT", 0),
        ("-5", 0),
        ("soon", 0),
        ("", 0),
        ("1e9", 0),
        ("٣", 0),
    ],
)
def test_retry_after(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == pytest.approx(seconds)


def test_errors_of_files() -> None:
    for name in (
        "ESTALE",
        "EIO",
        "ETIMEDOUT",
        "EHOSTDOWN",
        "ENOTCONN",
        "ESHUTDOWN",
        "EMFILE",
        "ENOMEM",
        "ELOOP",
    ):
        assert isinstance(of_local(OSError(getattr(errno, name), "x")), Transient), name
    for name in ("EACCES", "EPERM", "EISDIR", "ENAMETOOLONG", "EINVAL", "ENOENT"):
        assert isinstance(of_local(OSError(getattr(errno, name), "x")), ShardTrouble), name
    assert isinstance(of_local(FileNotFoundError(errno.ENOENT, "x"), listed=True), Transient)


class _Refused(Exception):
    def __init__(self, response: Any) -> None:
        super().__init__("403 Client Error for url: https://cdn.org/a.tar?X-Amz-Signature=s3cret&y=1")
        self.response = response


def _answer(status: int, **headers: str) -> Any:
    return SimpleNamespace(status_code=status, headers=headers)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (_Refused(_answer(503)), True),
        (_Refused(_answer(429)), True),
        (_Refused(_answer(403)), False),
        (_Refused(_answer(404)), False),
        (_Refused({"ResponseMetadata": {"HTTPStatusCode": 503}}), True),
        (_Refused({"ResponseMetadata": {"HTTPStatusCode": 401}}), False),
        (FileNotFoundError("bucket/a.tar"), False),
        (PermissionError("no"), False),
        (_caused(PermissionError("no"), _Refused(_answer(403))), False),
        (_caused(OSError(errno.EBUSY, "SlowDown"), _Refused(_answer(503))), True),
        (_caused(OSError("lost"), ConnectionResetError(104, "reset")), True),
        (OSError(errno.EIO, "internal error"), True),
        (TimeoutError(), True),
        (ConnectionError("away"), True),
        (type("EndpointConnectionError", (Exception,), {})("could not connect"), True),
        (type("NoCredentialsError", (Exception,), {})("no credentials"), False),
        (ImportError("Install s3fs"), False),
        (ValueError("Protocol not known: x"), False),
        (NotImplementedError(), False),
    ],
    ids=repr,
)
def test_errors_of_file_systems(error: Exception, passes: bool) -> None:
    found = of_fsspec(error, NOW)
    assert isinstance(found, Transient if passes else ShardTrouble)
    assert "s3cret" not in str(found)


def test_a_file_system_may_ask_to_wait() -> None:
    found = of_fsspec(_Refused(_answer(429, **{"Retry-After": "12"})), NOW)
    assert isinstance(found, Transient)
    assert found.wait == 12


def test_errors_of_commands_and_proxies() -> None:
    assert isinstance(of_command("aws s3 cp s3://b/a -", 1), Transient)
    assert isinstance(of_command("nosuch", 127), ShardTrouble)
    assert isinstance(of_command("curl -sf https://h/a", 6), Transient)
    assert isinstance(of_command("/usr/bin/curl -s https://h/a", 67), ShardTrouble)
    assert isinstance(of_command("curl -s https://h/a | zstd -d", 1), Transient)
    assert "signal 9" in str(of_command("x", -9))
    pool: Any = SimpleNamespace()

    def proxied(text: str) -> ShardTrouble | Transient:
        inner = urllib3.exceptions.ProxyError("Unable to connect to proxy", OSError(text))
        return of_http(urllib3.exceptions.MaxRetryError(pool, "/a?sig=s3cret", inner))

    assert isinstance(proxied("Tunnel connection failed: 407 Proxy Authentication Required"), ShardTrouble)
    assert isinstance(proxied("Tunnel connection failed: 503 Service Unavailable"), Transient)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("for url: https://h.org/a/b.tar?sig=x&y=2 (Caused", "for url: https://h.org/a/b.tar (Caused"),
        ("https://me:pw@h.org/a", "https://h.org/a"),
        ("Failed to parse: http://me:p@ss@h:xx/a?t=1", "Failed to parse: http://h:xx/a"),
        ("Max retries exceeded with url: /a.tar?token=x (", "Max retries exceeded with url: /a.tar ("),
        ("two\nlines", "two lines"),
        ("plain", "plain"),
    ],
)
def test_what_others_say_is_cleaned(text: str, clean: str) -> None:
    assert scrubbed(text) == clean


def test_one_outage_is_told_once_and_its_end_too() -> None:
    """However many threads meet it; all keep the wait that was asked of one of them."""
    told: list[str] = []
    patience = Patience(1.0, tell=told.append)
    begun = time.monotonic()
    back = begun + 1.2
    asked: list[float] = []

    def attempt() -> str:
        asked.append(time.monotonic() - begun)
        if time.monotonic() < back:
            raise Transient("HTTP 429, and asks to wait 1 s", 1.2)
        return "bytes"

    threads = [
        threading.Thread(target=patience.keep_trying, args=(f"http://h/{n}", "http://h", 0.01, attempt))
        for n in range(6)
    ]
    threads[0].start()
    time.sleep(0.1)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [at for at in asked if 0.1 < at < 1.2] == []
    first, second = told
    assert first.startswith("waits for http://h/0: HTTP 429")
    assert "for up to 1 min (data.patience)" in first
    assert second.startswith("http://h answers again, after 1 s")


def test_threads_lose_patience_together_and_a_success_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "_SPARSE", 0.1)
    told: list[str] = []
    patience = Patience(0.01, tell=told.append)

    def fail() -> None:
        raise Transient("away")

    begun = time.monotonic()
    with pytest.raises(PassingTrouble, match=r"a: away \(\d+ attempts in 1 s\)"):
        patience.keep_trying("a", "place", 0.05, fail)
    assert 0.6 <= time.monotonic() - begun < 1.5
    begun = time.monotonic()
    with pytest.raises(PassingTrouble, match="1 attempt in"):
        patience.keep_trying("b", "place", 0.05, fail)
    assert time.monotonic() - begun < 0.3, "the place has been away for long enough"
    assert 2 <= len(told) <= 4, "at once, then ever less often"
    patience.keep_trying("a", "place", 0.05, lambda: None)
    begun = time.monotonic()
    with pytest.raises(PassingTrouble):
        patience.keep_trying("a", "place", 0.05, fail)
    assert time.monotonic() - begun >= 0.6


def test_a_wait_beyond_patience_is_not_begun() -> None:
    patience = Patience(0.05, tell=lambda line: None)

    def busy() -> None:
        raise Transient("HTTP 503, and asks to wait 3600 s", 3600)

    begun = time.monotonic()
    with pytest.raises(PassingTrouble, match="asks to wait 3600 s"):
        patience.keep_trying("a", "place", 0.01, busy)
    assert time.monotonic() - begun < 0.5


def test_a_wait_ends_when_a_stop_is_asked_for_and_patience_travels() -> None:
    asked = threading.Event()
    patience = Patience(10.0, tell=lambda line: None, asked_to_stop=asked.is_set)

    def fail() -> None:
        raise Transient("away", 60)

    threading.Timer(0.3, asked.set).start()
    begun = time.monotonic()
    with pytest.raises(PassingTrouble, match="asked to stop"):
        patience.keep_trying("a", "place", 0.01, fail)
    assert time.monotonic() - begun < 2
    assert pickle.loads(pickle.dumps(patience)).minutes == 10.0


def test_passing_trouble_is_no_bad_unit(server: Server, options: CacheOptions) -> None:
    """Neither ReadTrouble, which may be skipped, nor a finding."""
    report = pack_texts(server.folder, "c", TEXTS[:5])
    corpus = open_corpus("c", [f"{server.url}/c-000000.tar"], report.index, options, patience=Patience(0.0))
    server.away_after = 0
    with pytest.raises(PassingTrouble) as caught:
        corpus.read_unit(0)
    assert not isinstance(caught.value, ReadTrouble)
    assert caught.value.code == 75


def basic(words: str) -> str:
    return "Basic " + base64.b64encode(words.encode()).decode()


def test_a_login_goes_to_its_host_and_to_no_other(
    server: Server, options: CacheOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From .netrc, the environment or a URL on a command line; over http too; not along a redirect."""
    report = pack_texts(server.folder, "c", TEXTS[:5])
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\ndefault login x password y\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.users = {basic("me:s3cret"): ""}
    url = f"{server.url}/c-000000.tar"
    assert read(open_corpus("c", [url], report.index, options)) == TEXTS[:5]
    elsewhere = Server(server.folder)
    try:
        server.faults = [f"to http://localhost:{elsewhere.http.server_port}/c-000000.tar?sig=s3cret"]
        made = build_index([url], tmp_path / "r.index", cache=options).index
        assert made.fingerprint == report.fingerprint
        assert elsewhere.headers
        assert not any("authorization" in headers for headers in elsewhere.headers)
    finally:
        elsewhere.close()
    netrc.unlink()
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    other = CacheOptions(str(tmp_path / "other"), backoff=0.01, timeout=0.5)
    with pytest.raises(BadInput, match=r"HTTP 401 .*a login belongs into \.netrc or HEADRACE_AUTHOR"):
        build_index([url], tmp_path / "s.index", cache=other)
    with_user = url.replace("http://", "http://me:s3cret@")
    made = build_index([with_user], tmp_path / "s.index", cache=other).index
    assert b"s3cret" not in made.path.read_bytes()
    server.users = {"Bearer t0ken": ""}
    monkeypatch.setenv("HEADRACE_AUTHORIZATION", "h.org Basic x\n127.0.0.1 Bearer t0ken")
    assert build_index([url], tmp_path / "t.index", cache=other).index.fingerprint == report.fingerprint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("machine h login me password p\nmachine", "line 2, is no .netrc"),
        (b"\xff\xfe", "is no text"),
        (None, "which NETRC names, is not there"),
        ("folder", "cannot be read: Is a directory"),
    ],
)
def test_a_netrc_that_cannot_be_read_hinders_nobody_who_needs_none(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / "netrc"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    login = Login({"NETRC": str(path)})
    assert login.of("http://h.org/a") == ("http://h.org/a", None)
    assert said in login.obstacle
    assert "password" not in login.obstacle


def test_a_password_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine h.org login me password old\n")
    login = Login({"NETRC": str(path)})
    assert login.of("https://h.org/a")[1] == basic("me:old")
    path.write_text("machine h.org login me password newer\n")
    os.utime(path, ns=(1, 1))
    assert login.of("https://h.org/a")[1] == basic("me:newer")
    assert login.of("https://other.org/a")[1] is None


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_server_packs_on_its_way_is_undone(
    server: Server, options: CacheOptions, tmp_path: Path, ranges: bool
) -> None:
    report = pack_texts(server.folder, "c", TEXTS[:40])
    server.ranges = ranges
    server.faults = ["gzip"] * 1000
    url = f"{server.url}/c-000000.tar"
    assert build_index([url], tmp_path / "g.index", cache=options).index.fingerprint == report.fingerprint
    assert read(open_corpus("c", [url], report.index, options)) == TEXTS[:40]
    assert all(headers["accept-encoding"] == "identity" for headers in server.headers)


def test_a_packing_that_cannot_be_undone_is_one_line(
    server: Server, options: CacheOptions, tmp_path: Path
) -> None:
    pack_texts(server.folder, "c", TEXTS[:40])
    server.ranges = False
    server.faults = ["br"] * 10
    with pytest.raises(BadInput, match=r"c-000000.tar: the server packs it .*Encoding: br.*as they are"):
        build_index([f"{server.url}/c-000000.tar"], tmp_path / "g.index", cache=options)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT])
def test_a_file_system_that_does_not_answer_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    report = pack_texts(tmp_path, "c", TEXTS[:5])
    told: list[str] = []
    patience = Patience(0.5, tell=told.append)
    corpus = open_corpus("c", [str(report.shards[0])], report.index, patience=patience)
    left = [3]
    pread = os.pread

    def failing(*arguments: Any) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return pread(*arguments)

    monkeypatch.setattr("data.shards.store.os.pread", failing)
    assert read(corpus) == TEXTS[:5]
    assert [line.split(" ")[0] for line in told] == ["waits", str(tmp_path)]
    assert os.strerror(number) in told[0]
