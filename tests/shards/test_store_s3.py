"""Shards in a bucket: found, indexed, verified and read as those on a disk are. Against moto's S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.access.cache import CacheOptions
from data.errors import BadInput
from data.prepare.build_index import build_index
from data.prepare.verify import verify
from data.shards.corpus import ReadTrouble, open_corpus
from tests.shards.test_pack import TEXTS, read
from tests.support.helpers import pack_texts

_NEEDED = "needs an S3 server of its own: pip install s3fs 'moto[server]'"
server = pytest.importorskip("moto.server", reason=_NEEDED)
s3fs = pytest.importorskip("s3fs", reason=_NEEDED)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://… of a bucket that exists for one test, reached as users reach theirs: by the environment."""
    running = server.ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("shards")
    yield "s3://shards"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_a_bucket_is_read_as_a_folder_is(bucket: str, tmp_path: Path) -> None:
    packed = pack_texts(tmp_path, "c", TEXTS, shard_bytes=1_000_000)
    files = s3fs.S3FileSystem()
    for path in packed.shards:
        files.put(str(path), f"shards/{path.name}")
    options = CacheOptions(str(tmp_path / "cache"), retries=1, backoff=0.01)
    local = open_corpus("c", [str(tmp_path / "c-*.tar")])
    urls = [f"{bucket}/c-*.tar"]

    built = build_index(urls, tmp_path / "s3.index", cache=options, workers=2)
    assert built.index.fingerprint == packed.fingerprint
    assert build_index(urls, tmp_path / "s3.index", cache=options).read == 0
    for index in (packed.index, built.index.path):  # the index of the shards on the disk serves as well
        corpus = open_corpus("c", urls, index, options)
        assert [bytes(corpus.read_bytes(n, n + 1)[0]) for n in range(len(corpus))] == [
            bytes(local.read_bytes(n, n + 1)[0]) for n in range(len(local))
        ]
        report = verify(index, urls, cache=options, workers=2)
        assert (report.findings, report.samples) == ([], len(TEXTS))
    assert read(corpus) == TEXTS

    stale = CacheOptions(str(tmp_path / "other cache"), retries=1, backoff=0.01)
    files.pipe_file("shards/c-000000.tar", packed.shards[0].read_bytes()[::-1])
    with pytest.raises(ReadTrouble, match="not those that were indexed"):
        open_corpus("c", urls, packed.index, stale).read_unit(0)
    files.rm("shards/c-000000.tar")
    with pytest.raises(ReadTrouble, match="no such file"):
        corpus.read_bytes(0, 2)
    with pytest.raises(BadInput, match="no such"):
        build_index(["s3://nowhere/*.tar"], tmp_path / "n.index", cache=options)
