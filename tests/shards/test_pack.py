"""Packing: what comes out is what went in, the same bytes however it is done, and never half of it."""

import contextlib
import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import webdataset
import zstandard

from data.errors import BadInput
from data.prepare.pack import pack
from data.prepare.parallel import ordered_map
from data.shards.corpus import open_corpus
from data.shards.index import Index
from data.shards.units import UNIT_TEXT
from data.shards.walk import TWICE
from data.sources import builtin
from tests.support.helpers import Corpora, make_corpus, pack_texts
from tests.support.sources import ROOT

TEXTS = [f"document {number}\n" + "wörd " * (number * 37 % 5000) for number in range(300)]


def read(corpus) -> list[str]:
    return [sample.text for unit in range(len(corpus)) for sample in corpus.read_unit(unit)]


def digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar*"))}


def test_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2, 3):
        pack_texts(tmp_path / str(workers), "c", TEXTS, workers=workers, shard_bytes=300_000)
    one, two, three = (digest(tmp_path / str(workers)) for workers in (1, 2, 3))
    assert one == two == three
    assert len(one) > 3
    corpus = open_corpus("c", [str(tmp_path / "2" / "c-*.tar")])
    assert read(corpus) == TEXTS


@pytest.mark.parametrize(("items", "most"), [([1, 2, 3], 3), (iter(range(100)), 4)])
def test_no_more_processes_than_items_or_than_a_core_can_feed(
    items: Iterable[int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    before = len(multiprocessing.active_children())
    mapped = ordered_map(abs, items, 1000)
    next(mapped)
    assert len(multiprocessing.active_children()) - before == most
    mapped.close()


def test_units_are_whole_samples_of_about_64_kb(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "c", TEXTS)
    sizes = corpus.index.units["text_bytes"]
    assert corpus.index.samples == len(TEXTS)
    assert corpus.index.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert sizes[:-1].min() > UNIT_TEXT * 0.7
    assert sizes.max() < UNIT_TEXT * 1.3


def test_a_huge_sample_is_a_unit_of_its_own(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "c", ["small", "huge" * 100_000, "small too"])
    assert corpus.index.units["samples"].tolist() == [1, 1, 1]
    assert read(corpus) == ["small", "huge" * 100_000, "small too"]


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    report = pack_texts(tmp_path, "c", TEXTS)
    found = list(webdataset.WebDataset(str(report.shards[0]), shardshuffle=False))
    assert [sample["txt"].decode() for sample in found] == TEXTS
    assert [sample["__key__"] for sample in found[:2]] == ["000000000", "000000001"]
    assert json.loads(found[7]["json"]) == {"source": "text 7"}
    with tarfile.open(report.shards[0]) as tar:
        assert {member.mtime for member in tar} == {0}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text("plain")
    (folder / "sub" / "a.md").write_text("# marked down")
    (folder / "sub" / "c.py").write_text("print(1)")
    (folder / "sub" / "picture.png").write_bytes(b"\x89PNG")
    (folder / "bad.txt").write_bytes(b"abc\xff")
    (folder / "empty.txt").write_text("")
    lines = b"".join(json.dumps({"body": f"line {n}"}).encode() + b"\n" for n in range(3))
    broken = b'{"body": 7}\n{"body": "\\ud800"}\nno json\n\n'
    (folder / "l1.jsonl").write_bytes(lines + broken)
    (folder / "l2.jsonl.gz").write_bytes(gzip.compress(lines))
    frames = [zstandard.ZstdCompressor().compress(part) for part in (lines[:20], lines[20:])]
    (folder / "l3.jsonl.zst").write_bytes(b"".join(frames))
    body = pyarrow.array([b"row 0", b"\xff\xfe", None, b"row 2"]).view(pyarrow.string())
    table = pyarrow.table({"body": body, "other": [1, 2, 3, 4]})
    pyarrow.parquet.write_table(table, folder / "p.parquet")
    return folder


def test_every_kind_of_input(inputs: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    report = pack([inputs], tmp_path / "out" / "c", field="body", progress=lambda *x: told.append(x))
    texts = read(open_corpus("c", [str(tmp_path / "out" / "c-*.tar")]))
    lines = ["line 0", "line 1", "line 2"]
    assert texts == ["plain", *lines * 3, "row 0", "row 2", "# marked down", "print(1)"]
    assert report.samples == len(texts)
    assert report.balance.left_out == {
        "not UTF-8": 2,
        "empty": 1,
        "no text in field 'body'": 2,
        "not UTF-8 (half of a surrogate pair)": 1,
        "not JSON": 1,
    }
    assert report.walk
    assert (len(report.walk.files), report.walk.balance.left_out.total()) == (9, 1)
    assert any(name.endswith("bad.txt at byte 3") for name in report.balance.names["not UTF-8"])
    assert any(name.endswith("p.parquet:1") for name in report.balance.names["not UTF-8"])
    assert told[-1][0] == told[-1][1]


def test_globs_and_files_named_twice(inputs: Path, tmp_path: Path) -> None:
    report = pack([inputs / "b.txt", str(inputs / "**" / "*.md"), inputs / "b.txt"], tmp_path / "c")
    assert report.samples == 2
    assert report.walk
    assert report.walk.balance.left_out == {TWICE: 1}


@pytest.mark.parametrize(
    "name, what",
    [
        ("nothing", "no such file or folder"),
        ("sub/picture.png", "expected one of .txt"),
        ("l2.jsonl.gz", "is it complete"),
        ("l3.jsonl.zst", "is it complete"),
        ("p.parquet", "not a readable Parquet file"),
    ],
)
def test_what_cannot_be_read_is_one_line(inputs: Path, tmp_path: Path, name: str, what: str) -> None:
    path = inputs / name
    if what.startswith(("is it", "not a")):
        path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(BadInput, match=what) as caught:
        pack([path], tmp_path / "c", field="body")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_missing_column_names_those_there(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no column 'text'; it has body, other"):
        pack([inputs / "p.parquet"], tmp_path / "c")


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    pack_texts(tmp_path, "c", ["one"])
    before = digest(tmp_path)
    with pytest.raises(BadInput, match="exists already"):
        pack_texts(tmp_path, "c", ["two"])
    assert digest(tmp_path) == before


def test_zstd_shards_hold_the_same_units(tmp_path: Path) -> None:
    plain = make_corpus(tmp_path / "plain", "c", TEXTS, shard_bytes=500_000)
    packed = make_corpus(tmp_path / "zstd", "c", TEXTS, shard_bytes=500_000, zstd=True)
    assert packed.index.fingerprint == plain.index.fingerprint
    assert read(packed) == TEXTS
    assert packed.read_units(0, 3) == plain.read_units(0, 3)
    with zstandard.open(packed.shards[0], "rb") as file:
        data = file.read()
    assert data == Path(plain.shards[0]).read_bytes()


def running() -> list[bytes]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def test_a_killed_pack_leaves_no_shard_and_does_not_hinder_the_next(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    with source.open("w") as file:
        for _ in range(20_000):
            file.write(f'{{"text": "{"many that take a while to pack " * 100}"}}\n')
    code = f"from data.prepare.pack import pack; pack(['{source}'], '{tmp_path}/out/c', workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.c.part-*/*.tar")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(str(source).encode() in command for command in running()):  # its workers end by themselves
        assert time.monotonic() < deadline + 10
        time.sleep(0.1)
    assert not list(tmp_path.glob("out/c*"))
    report = pack_texts(tmp_path / "out", "c", ["one"])
    assert report.samples == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["c-000000.tar", "c.index"]


def test_builtin_corpora(tmp_path: Path, corpora: Corpora) -> None:
    report = pack(["builtin:prose"], tmp_path / "prose")
    assert report.text_bytes > 1_500_000
    assert report.samples > 500
    code = [document for document in builtin.documents("code") if document.text]
    assert sum(len(document.text or "") for document in code) > 8_000_000
    assert not any("site-packages" in document.source for document in code)
    with pytest.raises(BadInput, match="expected builtin:code or builtin:prose"):
        pack(["builtin:poems"], tmp_path / "poems")
    assert Index.open(corpora.folder / "code.index").samples > 50
