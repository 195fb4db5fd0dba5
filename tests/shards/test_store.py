"""Reading from afar: an HTTP server that refuses, stalls, cuts off and fails; fsspec; commands; the cache."""

import gzip
import multiprocessing
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from data.access.cache import Cache, CacheOptions, TooLarge
from data.access.patience import Patience
from data.access.transports import shown
from data.errors import BadInput, PassingTrouble
from data.prepare.build_index import build_index
from data.prepare.verify import verify
from data.shards.corpus import Corpus, ReadTrouble, open_corpus
from data.shards.store import Store
from tests.shards.test_pack import TEXTS, read
from tests.support.helpers import pack_texts
from tests.support.shard_server import Server

SHORT = 0.01
"""Minutes."""


@pytest.fixture
def options(tmp_path: Path) -> CacheOptions:
    return CacheOptions(str(tmp_path / "cache"), bytes=100_000_000, backoff=0.01, timeout=0.3)


@pytest.fixture
def remote(server: Server, options: CacheOptions) -> Corpus:
    report = pack_texts(server.folder, "c", TEXTS, shard_bytes=1_000_000)
    assert len(report.shards) > 1
    return open_corpus("c", [f"{server.url}/{path.name}" for path in report.shards], report.index, options)


def test_units_are_read_by_ranges_and_kept(remote: Corpus, server: Server) -> None:
    assert server.requests == []
    assert read(remote) == TEXTS
    assert len(server.requests) == len(remote)
    assert all(server.requests)
    assert read(remote) == TEXTS
    assert len(server.requests) == len(remote)  # the second time from the cache
    several = remote.read_units(1, 4)
    assert several == [remote.read_unit(unit) for unit in range(1, 4)]
    assert len(server.requests) == len(remote) + 1


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "stall", "cut", "drip", "flip"])
def test_what_may_pass_is_tried_again(remote: Corpus, server: Server, fault: str) -> None:
    expected = open_corpus("c", [str(server.folder / "c-*.tar")]).read_unit(2)
    server.faults = [fault] if fault == "flip" else [fault] * 3
    assert remote.read_unit(2) == expected
    assert server.faults == []


@pytest.mark.parametrize(
    "fault, what", [("500", "HTTP 500"), ("reset", ""), ("stall", "stalled"), ("cut", "cut off after")]
)
def test_when_patience_ends_one_line_says_what_and_where(
    remote: Corpus, server: Server, fault: str, what: str
) -> None:
    remote.store.patience = Patience(SHORT)
    server.faults = [fault] * 1000
    begun = time.monotonic()
    with pytest.raises(PassingTrouble, match=rf"c: http.*c-000000\.tar: .*{what}.*attempts in 1 s") as caught:
        remote.read_unit(2)
    assert 0.6 <= time.monotonic() - begun < 2
    assert "\n" not in str(caught.value)
    server.faults = []
    assert remote.read_unit(2)  # the next call begins anew


def test_what_will_not_pass_is_not_tried_again(remote: Corpus, server: Server) -> None:
    (server.folder / "c-000001.tar").unlink()
    unit = remote.index.range_of(1)[0]
    with pytest.raises(ReadTrouble, match="HTTP 404"):
        remote.read_unit(unit)
    assert len(server.requests) == 1
    server.faults = ["403"]
    with pytest.raises(ReadTrouble, match="HTTP 403"):
        remote.read_unit(0)


def test_nobody_listens(server: Server, options: CacheOptions) -> None:
    report = pack_texts(server.folder, "c", ["text"])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/c-000000.tar"]
    corpus = open_corpus("c", urls, report.index, options, patience=Patience(SHORT))
    with pytest.raises(PassingTrouble, match=r"Connection refused .* attempts"):
        corpus.read_unit(0)


def test_a_shard_that_changed_on_the_server(remote: Corpus, server: Server) -> None:
    with (server.folder / "c-000000.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ReadTrouble, match=r"bytes and had .* when it was indexed"):
        remote.read_unit(0)
    with (server.folder / "c-000001.tar").open("r+b") as file:
        file.write(b"other content")
    with pytest.raises(ReadTrouble, match="not those that were indexed"):
        remote.read_unit(remote.index.range_of(1)[0])


def test_a_connection_serves_many_reads(remote: Corpus, server: Server) -> None:
    assert read(remote) == TEXTS
    assert server.connections == 1
    assert len(server.requests) == len(remote)


def test_a_server_that_hangs_up_between_reads(remote: Corpus, server: Server) -> None:
    """It says nothing of it beforehand: the next read opens another connection and no attempt is lost."""
    for unit in range(4):
        server.faults = ["hang up"]
        assert remote.read_unit(unit)
        time.sleep(0.05)
    assert server.connections == 4
    assert len(server.requests) == 4


def test_processes_do_not_share_a_connection(server: Server, options: CacheOptions) -> None:
    (server.folder / "a").write_bytes(b"some bytes")
    store, url = Store(options), f"{server.url}/a"
    assert store.status(url).size == 10
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()

    def child() -> None:
        found.put([store.status(url).size for _ in range(20)])

    children = [fork.Process(target=child) for _ in range(3)]
    for process in children:
        process.start()
    assert [found.get(timeout=30) for _ in children] == [[10] * 20] * 3
    for process in children:
        process.join()
    before = server.connections
    assert before == 4
    assert store.status(url).size == 10
    assert server.connections == before  # the parent's is still its own


def test_redirects_and_proxies(
    remote: Corpus, server: Server, options: CacheOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = [f"to {server.url}/c-000000.tar?signature=secret"]
    assert remote.read_unit(0)
    assert server.requests[0] == server.requests[1] is not None  # the range is asked for there too
    server.faults = [f"to {server.url}/c-000000.tar"] * 99
    with pytest.raises(ReadTrouble, match="too many redirects"):
        remote.read_unit(1)
    server.faults = []
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://user:key@"))
    behind = [f"http://nowhere.invalid/{path.rpartition('/')[2]}" for path in remote.shards]
    assert read(open_corpus("c", behind, remote.index.path, options)) == TEXTS


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl, which makes the certificates")
def test_https(
    server: Server, options: CacheOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = pack_texts(server.folder, "c", TEXTS, shard_bytes=1_000_000)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(
        server.http.socket, server_side=True, do_handshake_on_connect=False
    )
    urls = [f"https://localhost:{server.http.server_port}/{path.name}" for path in report.shards]
    with pytest.raises(BadInput, match=r"c-000000\.tar: its certificate is not trusted .*SSL_CERT_FILE"):
        build_index(urls, tmp_path / "s.index", cache=options)
    assert server.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    index = build_index(urls, tmp_path / "s.index", cache=options).index
    assert index.fingerprint == report.fingerprint
    assert verify(index.path, urls, cache=options).findings == []
    assert verify(report.index, urls, cache=options, workers=2).findings == []
    before = server.connections
    server.faults = ["500", "cut", "hang up"]
    assert read(open_corpus("c", urls, index.path, replace(options, folder=str(tmp_path / "d")))) == TEXTS
    assert server.connections == before + 4
    named = [
        url.replace("localhost", "127.0.0.1") for url in urls
    ]  # a name that the certificate does not have
    with pytest.raises(BadInput, match="IP address mismatch"):
        build_index(named, tmp_path / "n.index", cache=options)


@pytest.mark.parametrize("fault", ["", "cut", "500"])
def test_a_server_without_ranges_is_read_once(remote: Corpus, server: Server, fault: str) -> None:
    server.ranges = False
    server.faults = ["", *[fault] * 3]
    assert read(remote) == TEXTS
    whole = [asked for asked in server.requests if asked is None]
    assert len(whole) == len(remote.shards) + (3 if fault else 0)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("pack", [False, True])
def test_indexing_over_http(server: Server, options: CacheOptions, ranges: bool, pack: bool) -> None:
    report = pack_texts(server.folder, "c", TEXTS, shard_bytes=1_000_000)
    server.ranges = ranges
    names = [path.name for path in report.shards]
    if pack:
        for path in report.shards:
            path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        names = [f"{name}.gz" for name in names]
    server.faults = ["500", "cut", ""]
    urls = [f"{server.url}/{name}?signature=secret" for name in names]
    index = build_index(urls, server.folder / "remote.index", cache=options).index
    assert index.fingerprint == report.fingerprint
    assert b"secret" not in index.path.read_bytes()
    assert read(open_corpus("c", urls, index.path, options)) == TEXTS
    assert verify(index.path, urls, cache=options).findings == []
    assert build_index(urls, index.path, cache=options).read == len(urls)  # no mtime is told: read again


def test_fsspec(tmp_path: Path, options: CacheOptions) -> None:
    report = pack_texts(tmp_path, "c", TEXTS, shard_bytes=1_000_000)
    memory = fsspec.filesystem("memory")
    for path in report.shards:
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    index = build_index(["memory://bucket/c-*.tar"], tmp_path / "m.index", cache=options).index
    assert index.fingerprint == report.fingerprint
    corpus = open_corpus("c", ["memory://bucket/c-*.tar"], index.path, options)
    assert read(corpus) == TEXTS
    memory.rm("/bucket/c-000000.tar")
    with pytest.raises(ReadTrouble, match="no such file"):
        corpus.read_bytes(0, 2)
    with pytest.raises(BadInput, match="nowhere"):
        open_corpus("c", ["memory://nowhere/*.tar"], index.path, options)
    with pytest.raises(BadInput, match="nosuchprotocol"):
        build_index(["nosuchprotocol://b/c.tar"], tmp_path / "n.index", cache=options)


def test_pipe(tmp_path: Path, options: CacheOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    report = pack_texts(tmp_path, "c", TEXTS, shard_bytes=1_000_000)
    count = len(report.shards) - 1
    urls = [f"pipe:echo . >>{tmp_path}/runs; gzip -1 -c {tmp_path}/c-{{000000..{count:06d}}}.tar"]
    index = build_index(urls, tmp_path / "p.index", cache=options).index
    assert index.fingerprint == report.fingerprint
    assert str(tmp_path).encode() not in index.path.read_bytes()  # a command may hold a password
    corpus = open_corpus("c", urls, index.path, options)
    assert read(corpus) == TEXTS
    runs = (tmp_path / "runs").read_text().count(".")
    assert read(corpus) == TEXTS
    assert (tmp_path / "runs").read_text().count(".") == runs
    assert verify(index.path, urls, cache=options).findings == []
    for command, kind, what in (
        ("cat /nowhere/at/all", PassingTrouble, "exit code 1"),
        ("sleep 60", PassingTrouble, "stalled"),
        ("no-such-command", BadInput, "does not find the command"),
        ("true", BadInput, "empty"),
    ):
        with pytest.raises(BadInput, match=what) as caught:
            build_index([f"pipe:{command}"], tmp_path / "q.index", cache=options, patience=Patience(SHORT))
        assert type(caught.value) is kind
    for value in ("1", "", "yes"):  # webdataset cannot even be imported with the last two
        monkeypatch.setenv("WDS_SECURE", value)
        with pytest.raises(BadInput, match=r"pipe:echo #.*: is a command, and WDS_SECURE is set"):
            open_corpus("c", urls, index.path, options)
    monkeypatch.setenv("WDS_SECURE", "0")
    open_corpus("c", urls, index.path, options)


def test_a_command_that_gave_a_shorter_shard_before(
    tmp_path: Path, options: CacheOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words in two folders name two shards, and the cache knows a command by its words."""
    for folder, texts in (("long", TEXTS), ("short", TEXTS[:5])):
        pack_texts(tmp_path / folder, "c", texts)
        monkeypatch.chdir(tmp_path / folder)
        build_index(["pipe:cat c-000000.tar"], "pipe.index", cache=options)
    for folder, texts in (("long", TEXTS), ("short", TEXTS[:5])):
        monkeypatch.chdir(tmp_path / folder)
        assert read(open_corpus("c", ["pipe:cat c-000000.tar"], "pipe.index", options)) == texts


def test_the_cache_keeps_its_bound_and_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    for number in range(100):
        cache.put(f"file {number}", [bytes(700), bytes(300)]).close()
        os.utime(cache.path(f"file {number}"), (number, number))
        kept = cache.open("file 0")
        assert kept is not None
        kept.close()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert cache.open("file 50") is None
    with pytest.raises(TooLarge):
        cache.put("huge", [bytes(6_000), bytes(6_000)])
    assert not list(tmp_path.glob("writing-*"))


def test_a_file_that_is_evicted_while_it_is_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    with cache.put("a", [b"a" * 6_000]) as file:
        cache.put("b", [b"b" * 6_000]).close()
        assert cache.open("a") is None
        assert file.read() == b"a" * 6_000


def test_corpora_of_one_process_share_a_folder(tmp_path: Path) -> None:
    """Each has a cache of its own, and both write at the same time."""
    ours, theirs = Cache(tmp_path, 10_000), Cache(tmp_path, 10_000)

    def chunks() -> Iterator[bytes]:
        yield b"a" * 500
        with theirs.put("b", [b"b" * 1_000]) as file:
            assert file.read() == b"b" * 1_000
        yield b"a" * 500

    with ours.put("a", chunks()) as file:
        assert file.read() == b"a" * 1_000
    for key, cache in (("a", theirs), ("b", ours)):
        kept = cache.open(key)
        assert kept is not None
        with kept:
            assert kept.read() == key.encode() * 1_000


def test_a_file_of_another_user_is_read_though_its_use_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 10_000)
    cache.put("a", [b"theirs"]).close()

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr("data.access.cache.os.utime", refuse)
    kept = cache.open("a")
    assert kept is not None
    with kept:
        assert kept.read() == b"theirs"


def test_what_a_killed_process_left_is_removed_and_nothing_of_the_users(tmp_path: Path) -> None:
    left, own = tmp_path / f"writing-{'0' * 32}", [tmp_path / "thesis.txt", tmp_path / "writing-a-thesis"]
    for path in (left, *own):
        path.write_bytes(bytes(9_000))
        os.utime(path, (time.time() - 4_000,) * 2)
    cache = Cache(tmp_path, 10_000)
    for key in "abc":
        cache.put(key, [bytes(5_000)]).close()
    assert not left.exists()
    assert all(path.exists() for path in own)
    assert len(list(tmp_path.iterdir())) <= 4


def test_a_tiny_cache_changes_nothing_but_speed(
    server: Server, options: CacheOptions, tmp_path: Path
) -> None:
    report = pack_texts(server.folder, "c", TEXTS, shard_bytes=1_000_000)
    packed = [path.with_suffix(".tar.gz") for path in report.shards]
    for path in packed:
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes(), 1))
    small = CacheOptions(str(tmp_path / "small"), bytes=1_500_000)
    index = build_index([str(path) for path in packed], tmp_path / "g.index", cache=options).index
    corpus = open_corpus("c", [str(path) for path in packed], index.path, small)
    order = [unit * 7 % len(corpus) for unit in range(len(corpus))]
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(order, pool.map(corpus.read_unit, order), strict=True))
    assert [sample.text for unit in range(len(corpus)) for sample in found[unit]] == TEXTS
    assert sum(path.stat().st_size for path in (tmp_path / "small").iterdir()) <= 1_500_000
    tiny = CacheOptions(str(tmp_path / "tiny"), bytes=1_000)
    with pytest.raises(BadInput, match=r"data\.cache\.bytes is 1000, too little"):
        open_corpus("c", [str(path) for path in packed], index.path, tiny).read_unit(0)


def test_urls_are_shown_without_secrets() -> None:
    assert shown("https://user:key@h.org:80/a/b.tar?X-Amz-Signature=x#y") == "https://h.org:80/a/b.tar"
    assert shown("pipe:curl -H 'Authorization: x' u").startswith("pipe:curl #")
    assert "Authorization" not in shown("pipe:curl -H 'Authorization: x' u")


@pytest.mark.parametrize("name", ["bytes", "backoff", "timeout"])
def test_cache_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: -1"):
        CacheOptions(**{name: -1})
