"""The quick way of packing is the slow way: same tars, same index, same account, whatever the workers."""

import errno
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import webdataset
import zstandard

from data.errors import BadInput, PassingTrouble
from data.prepare.pack import pack, pack_documents
from data.prepare.unit_bytes import header, tar_of
from data.prepare.verify import verify
from data.shards.index import Index
from data.shards.units import UNIT_TAR, Size, runs, unit_starts
from data.sources import json_lines, pieces
from data.sources.batch import BATCH
from data.sources.documents import Document
from tests.support.slow_pack import slow_pack
from tests.support.sources import ROOT

LONG = "häuser \\u00e9 \\ud83d\\ude00 \\\\ \\n " * 40_000
ODD = [
    b'{"text": "plain", "x": NaN, "y": [Infinity, -0.0, 1e400]}',
    b'\xef\xbb\xbf{"text": "a mark in front"}',
    b'{"text": "\xef\xbb\xbf\xef\xbb\xbfmarks within"}',
    b'{"text": "\\ufeff"}',
    b'{"text": "\\ud800 half"}',
    b'{"text": "\\ud83d\\ude00 whole"}',
    b'{"text": "bad \xff bytes"}',
    b'{"text": "good", "other": "bad \xc3"}',
    '{"text": "plain utf-16"}'.encode("utf-16-le"),
    b'{"text": "a\\u0000b\\u0000c\\u0000d\\u0000e\\u0000"}',
    b'{"text": "nul \\u0000 inside"}',
    b'{"text": "raw nul \x00"}',
    b'{"text": "digits", "n": ' + b"7" * 5_000 + b"}",
    b'{"text": "deep", "n": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    b'{"text": "twice", "text": "the last counts"}',
    b'{"text": "carriage return"}\r',
    b'  {"text": "blanks around"} \t ',
    b'{"text": "two"} {"text": "values"}',
    b'{"text": "cut off',
    b'{"text": "tab\tin it"}',
    b'{"text":',
    b'"on the next line"}',
    b'{"text": ""}',
    b'{"text": 7}',
    b'{"text": null}',
    b'{"body": "another field"}',
    b'["text"]',
    b'"text"',
    b"17",
    b"null",
    b"",
    b"   \t\r",
    b"\x0b\x0c",
    b'{"text": "\xe2\x80\xa8 other line ends \xc2\x85 \\u001c \x7f"}',
    b'{"text": "' + LONG.encode() + b'"}',
    b'{"text": "' + b"x" * BATCH + b'"}',
    b'{"text": "' + b"x" * (BATCH + 1) + b'"}',
    b'{"html": "' + LONG.encode() + b'", "text": "short beside a long one"}',
    b'{"text": "percent %d %s {} \\u0025"}',
]


def lines(seed: int, count: int) -> list[bytes]:
    """Lines of all lengths, odd ones among them."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        words = ["wörd", "一二", "plain"] if number % 3 else ["ascii"]
        text = " ".join(rng.choices(words, k=int(rng.paretovariate(0.6)) % 4_000))
        made.append(json.dumps({"id": number, "text": text}, ensure_ascii=bool(number % 2)).encode())
    for odd in ODD:
        made.insert(rng.randrange(len(made)), odd)
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, and what is wrong with each."""
    folder = tmp_path_factory.mktemp("in")
    (folder / "a.jsonl").write_bytes(b"\n".join(lines(1, 3_000)))
    (folder / "b%d.jsonl").write_bytes(b"\r\n".join(lines(2, 40)) + b"\r\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines(3, 300)) + b"\n\n"))
    (folder / "d.jsonl.zst").write_bytes(zstandard.compress(b"\n".join(lines(4, 300))))
    (folder / "e.jsonl").write_bytes(b"\n\r\n \n")
    (folder / "f.jsonl").write_bytes(b"")
    (folder / "g.jsonl").write_bytes(gzip.compress(b"{}"))
    (folder / "h.txt").write_bytes(b"a text\r\n")
    (folder / "i.txt").write_bytes(b"line\n" * 600_000)
    (folder / "j.json").write_bytes(b"[" + b", ".join([b'{"text": "of an array"}'] * 700) + b"]")
    (folder / "k.txt").write_bytes(b"not \xff UTF-8")
    texts: list[Any] = [f"row {n} é" * (n % 90) for n in range(9_000)]
    texts[17], texts[18], texts[700], texts[4_000] = None, "", "\ufeffmark", "x" * (BATCH + 1)
    table = pyarrow.table({"text": texts, "n": range(len(texts))})
    pyarrow.parquet.write_table(table, folder / "l.parquet", row_group_size=1_500)
    bad = pyarrow.array([b"row", b"\xff\xfe", b"more"] * 50).view(pyarrow.string())
    kinds = {
        "large": pyarrow.large_string(),
        "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    }
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), folder / "m.parquet")
    for name, kind in kinds.items():
        column = pyarrow.array([f"{name} {n}" for n in range(50)]).cast(kind)
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), folder / f"n-{name}.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), folder / "o.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), folder / "p.parquet"
    )
    return folder


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and chunks of some kilobytes, so that borders fall everywhere."""
    monkeypatch.setattr(pieces, "PIECE", 50_001)
    monkeypatch.setattr(pieces, "_ROWS", 1)
    monkeypatch.setattr(json_lines, "_CHUNK", 7_001)


def content(folder: Path) -> list[bytes]:
    """The shards."""
    return [path.read_bytes() for path in sorted(folder.glob("*.tar*"))]


def described(index: Path) -> list[Any]:
    """All that an index says, but for times."""
    opened = Index.open(index)
    shards = [(shard.name, shard.size, shard.packing, shard.balance) for shard in opened.files]
    return [opened.table.checksum(), opened.fingerprint, opened.reading, shards]


@pytest.mark.parametrize(
    "zstd, shard_bytes, meta", [(False, 300_000, True), (True, 2_000_000, True), (False, 1 << 28, False)]
)
def test_quick_is_slow(
    inputs: Path, tmp_path: Path, small_pieces: None, zstd: bool, shard_bytes: int, meta: bool
) -> None:
    options: dict[str, Any] = {"zstd": zstd, "shard_bytes": shard_bytes, "meta": meta}
    balance = slow_pack(sorted(inputs.iterdir()), tmp_path / "slow" / "c", **options)
    expected = content(tmp_path / "slow")
    for workers, memory in ((1, 256), (2, 16), (3, 256)):
        folder = tmp_path / str(workers)
        report = pack([inputs], folder / "c", workers=workers, memory_mib=memory, **options)
        assert report.balance == balance
        assert content(folder) == expected
        assert described(folder / "c.index") == described(tmp_path / "slow" / "c.index")
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not verify(tmp_path / "2" / "c.index").findings


def test_a_line_is_in_one_piece_wherever_the_borders_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b'{"text": "a"}\n\n{"text": "' + b"long" * 30 + b'"}\r\n{}\n{"text": "b"}'
    path = tmp_path / "a.jsonl"
    for number, ending in enumerate((b"", b"\n", b"\n\n")):
        path.write_bytes(lines + ending)
        slow_pack([path], tmp_path / f"slow{number}" / "c")
        for size in range(1, len(lines) + 3, 2 + 2 * number):
            monkeypatch.setattr(pieces, "PIECE", size)
            monkeypatch.setattr(json_lines, "_CHUNK", size % 7 + 1)
            folder = tmp_path / f"{number}-{size}"
            report = pack([path], folder / "c")
            assert content(folder) == content(tmp_path / f"slow{number}")
            assert report.balance.names == {"no text in field 'text'": [f"{path}:4"]}


def test_headers_are_webdatasets() -> None:
    """Of every length of key and of many sizes."""
    rng = random.Random(1)
    for key in ("0", "000000017", "999999999", "1000000000", "0017-000000000", "x" * 60):
        sizes = [0, 1, 511, 512, 513, 8_191, *(rng.randrange(1 << 20) for _ in range(3))]
        texts, metas = [rng.randbytes(size) for size in sizes], [rng.randbytes(s % 700 + 1) for s in sizes]
        for meta in (metas, None):
            stream = io.BytesIO()
            writer = webdataset.TarWriter(stream, encoder=False, mtime=0)
            for number, text in enumerate(texts):
                more = {} if meta is None else {"json": meta[number]}
                writer.write({"__key__": key, **more, "txt": text})
            writer.close()
            tar = tar_of([key.encode()] * len(sizes), texts, sizes, meta)
            assert stream.getvalue()[: len(tar)] == tar
            assert not stream.getvalue()[len(tar) :].strip(b"\0")
    assert len(header("0", "txt", 8 << 30)) > 512


def test_units_are_cut_by_one_rule() -> None:
    rng = random.Random(2)
    for _ in range(200):
        small = rng.choice([1, 100, 5_000, 70_000, 300_000])
        text = [rng.randrange(small) for _ in range(rng.randrange(60))]
        tar = [size + rng.randrange(rng.choice([1, UNIT_TAR // 3])) for size in text]
        units = runs(range(len(text)), lambda at: Size(text[at], tar[at]))  # noqa: B023
        assert unit_starts(np.array(text, int), np.array(tar, int)) == [unit[0] for unit in units]


def test_a_file_that_fails_midway_ends_there_for_any_number_of_workers(
    inputs: Path, tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: what was read before it is packed, what stands behind it is not."""
    whole = json_lines.lines_of

    def failing(file: Any, piece: pieces.Piece) -> Iterator[bytes]:
        for number, chunk in enumerate(whole(file, piece)):
            if piece.first == 2 * pieces.PIECE and number == 2:
                raise OSError(errno.EIO, "Input/output error")
            yield chunk

    monkeypatch.setattr("data.sources.read_files.lines_of", failing)
    found = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        report = pack([inputs / "a.jsonl", inputs / "h.txt"], folder / "c", workers=workers)
        found.append((report.balance, content(folder)))
    assert found[0] == found[1]
    (name,) = found[0][0].names["cannot be read to its end (Input/output error)"]
    assert 1 < int(name.rpartition(":")[2]) < 1_000
    (tar,) = found[0][1]
    assert b"a text\r\n" in tar


def test_a_worker_that_is_killed_ends_the_pack_in_a_line(tmp_path: Path) -> None:
    parent = os.getpid()

    def documents() -> Iterator[Document]:
        yield Document("a", "text", None)
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(PassingTrouble, match=r"a worker was ended from outside \(signal 9\)"):
        pack_documents(documents(), tmp_path / "out" / "c", workers=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_wrong_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 9)[:-9])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n' * 300_000)
    with pytest.raises(BadInput, match=r"a\.jsonl\.gz: cut off at byte .*; is it complete\?"):
        pack([tmp_path / "b.jsonl", tmp_path / "a.jsonl.gz"], tmp_path / "out" / "c", workers=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.faults
def test_an_interrupted_pack_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of the terminal."""
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "short"}\n' * 5_000_000)
    code = f"from data.prepare.pack import pack; pack(['{tmp_path}/in.jsonl'], '{tmp_path}/out/c', workers=2)"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.c.part-*/*.tar")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1, errors
    assert list((tmp_path / "out").iterdir()) == []
