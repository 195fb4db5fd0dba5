"""The index of foreign shards, and how a corpus is opened: what is accepted, what is refused and how."""

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from data.access.cache import CacheOptions
from data.access.patience import Patience
from data.errors import BadInput, PassingTrouble
from data.prepare.build_index import build_index
from data.prepare.pack import pack
from data.shards import units
from data.shards.corpus import ReadTrouble, open_corpus
from data.shards.index import Index, fingerprint
from data.shards.listed import remedy
from data.shards.samples import Reading
from data.shards.store import expand
from data.shards.units import unit_text_for
from tests.shards.test_pack import TEXTS, read
from tests.shards.test_tar import LONG, tar_of
from tests.support.helpers import make_corpus, pack_texts


@pytest.fixture
def cache(tmp_path: Path) -> CacheOptions:
    return CacheOptions(folder=str(tmp_path / "cache"), bytes=50_000_000)


def foreign(folder: Path, count: int = 3) -> list[bytes]:
    """Tars as other tools write them: long names, several members a sample, folders."""
    folder.mkdir(exist_ok=True)
    tars = []
    for number in range(count):
        entries = []
        for sample, text in enumerate(TEXTS[number::count]):
            entries += [(f"{LONG}/{sample}.cls", b"1"), (f"{LONG}/{sample}.txt", text.encode())]
        tars.append(tar_of(entries, tarfile.PAX_FORMAT if number % 2 else tarfile.GNU_FORMAT))
    return tars


def test_the_index_of_our_shards_is_the_one_that_pack_wrote(tmp_path: Path) -> None:
    for zstd in (False, True):
        name = f"c{zstd}"
        report = pack_texts(tmp_path, name, TEXTS, shard_bytes=300_000, zstd=zstd)
        ours = Index.open(report.index)
        again = build_index([str(path) for path in report.shards], tmp_path / "again" / name, workers=2)
        assert np.array_equal(again.index.units, ours.units)
        assert again.index.fingerprint == ours.fingerprint == report.fingerprint
        assert not again.notes


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst"])
def test_foreign_shards(tmp_path: Path, cache: CacheOptions, suffix: str) -> None:
    pack_as = {
        "tar": bytes,
        "tar.gz": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
        "tar.zst": lambda data: zstandard.compress(data[:5000]) + zstandard.compress(data[5000:]),
    }
    for number, data in enumerate(foreign(tmp_path / "s")):
        (tmp_path / "s" / f"{number}.{suffix}").write_bytes(pack_as[suffix](data))
    shards = [str(tmp_path / "s" / f"*.{suffix}")]
    report = build_index(shards, tmp_path / "c.index", cache=cache)
    corpus = open_corpus("c", shards, tmp_path / "c.index", cache)
    assert read(corpus) == TEXTS[0::3] + TEXTS[1::3] + TEXTS[2::3]
    assert corpus.read_unit(0)[1].key == f"{LONG}/1"
    assert (report.index.samples, report.read) == (len(TEXTS), 3)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # what the cache holds changes nothing
    assert read(corpus) == TEXTS[0::3] + TEXTS[1::3] + TEXTS[2::3]
    assert (tmp_path / "cache").exists() == (suffix != "tar")


def test_bad_samples_are_kept_with_their_problem(tmp_path: Path) -> None:
    entries = [("1.txt", b"good"), ("2.txt", b"\xff"), ("3.jpg", b"picture"), ("4.json", b'{"text": "four"}')]
    (tmp_path / "a.tar").write_bytes(tar_of(entries))
    report = build_index([str(tmp_path / "a.tar")], tmp_path / "a.index")
    assert report.index.balance.left_out == {"not UTF-8": 1, "not text: .jpg": 1}
    assert report.index.balance.names["not UTF-8"] == ["a.tar/2.txt"]
    corpus = open_corpus("a", [str(tmp_path / "a.tar")])
    assert [sample.text for sample in corpus.read_unit(0)] == ["good", None, None, "four"]
    assert [sample.problem for sample in corpus.read_unit(0)] == [None, "not UTF-8", "no text", None]


def test_a_text_field_is_part_of_the_index(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([("1.json", b'{"body": "b"}')]))
    build_index([str(tmp_path / "a.tar")], tmp_path / "a.index", reading=Reading("body"))
    corpus = open_corpus("a", [str(tmp_path / "a.tar")])
    assert read(corpus) == ["b"]
    with pytest.raises(BadInput, match="was made for text_field 'body', the corpus asks for 'text'"):
        open_corpus("a", [str(tmp_path / "a.tar")], reading=Reading("text"))


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "is empty"),
        (bytes(10240), "holds no sample"),
        (tar_of([("1.txt", b"x" * 5000)])[:3000], "cut off at byte 3000"),
        (b"<html>404</html>" * 100, "is a page, not a shard"),
        (b"\x89PNG" * 700, "no tar header at byte 0"),
        (gzip.compress(tar_of([("1.txt", os.urandom(5000))]))[:3000], "cut off at byte 3000"),
        (zstandard.compress(tar_of([("1.txt", os.urandom(5000))]))[:3000], "cut off at byte 3000"),
        (b"\x1f\x8b" + b"nonsense" * 10, "gzip data are damaged"),
    ],
    ids=["nothing", "end mark", "cut tar", "html", "picture", "cut gzip", "cut zstd", "no gzip"],
)
def test_bad_shards_are_one_line_and_leave_no_index(
    tmp_path: Path, cache: CacheOptions, content: bytes, what: str
) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadInput, match=what) as caught:
        build_index([str(tmp_path / "a.tar")], tmp_path / "a.index", cache=cache)
    assert str(tmp_path / "a.tar") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.index").exists()


def test_a_tar_without_end_mark_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([("1.txt", b"x" * 512)])[:1024])
    report = build_index([str(tmp_path / "a.tar")], tmp_path / "a.index")
    assert "has no end mark" in report.notes[0]


def test_appending_shards_reads_the_new_ones_alone_and_keeps_the_order(tmp_path: Path) -> None:
    for number, data in enumerate(foreign(tmp_path)):
        (tmp_path / f"{number}.tar").write_bytes(data)
    shards = [str(tmp_path / f"{number}.tar") for number in range(3)]
    old = build_index(shards[1:], tmp_path / "c.index").index
    grown = build_index(shards, tmp_path / "c.index")
    assert grown.read == 1
    assert grown.index.shards == ("1.tar", "2.tar", "0.tar")
    assert fingerprint(grown.index.units[: len(old)]) == old.fingerprint
    assert grown.index.fingerprint != old.fingerprint
    corpus = open_corpus("c", [str(tmp_path / "*.tar")])
    assert read(corpus) == TEXTS[1::3] + TEXTS[2::3] + TEXTS[0::3]


def test_moved_corpora_open_and_changed_ones_do_not(tmp_path: Path) -> None:
    make_corpus(tmp_path / "a", "c", TEXTS)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # other mtimes
    corpus = open_corpus("c", [str(tmp_path / "b" / "c-*.tar")])
    assert read(corpus) == TEXTS
    shutil.move(tmp_path / "b" / "c.index", tmp_path / "elsewhere.index")
    assert read(open_corpus("c", [str(tmp_path / "b" / "c-*.tar")], tmp_path / "elsewhere.index")) == TEXTS

    shard = tmp_path / "a" / "c-000000.tar"
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data + bytes(512))
    with pytest.raises(BadInput, match=r"is older than .*c-000000.tar, which has .* headrace data index"):
        open_corpus("c", [str(shard)])
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BadInput, match=r"is older than .* whose content changed"):
        open_corpus("c", [str(shard)])


def test_a_flipped_byte_is_noticed_when_its_unit_is_read(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "c", TEXTS)
    with open(corpus.shards[0], "r+b") as file:
        file.seek(int(corpus.index.units[3]["offset"]) + 777)
        file.write(b"\1")  # where the padding of a member is
    assert corpus.read_unit(2)
    with pytest.raises(ReadTrouble, match=r"corpus c: .*c-000000.tar, unit 3 \(from byte \d+\): .*checksum"):
        corpus.read_unit(3)
    os.truncate(corpus.shards[0], 1000)
    with pytest.raises(ReadTrouble, match=r"unit 0 .*cut off: it ends at byte 1000"):
        corpus.read_unit(0)
    os.unlink(corpus.shards[0])
    corpus.store.patience = Patience(0.0)
    with pytest.raises(PassingTrouble, match="No such file"):
        corpus.read_unit(0)


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    pack_texts(tmp_path, "c", TEXTS, shard_bytes=300_000)
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    with pytest.raises(
        BadInput, match=rf"^corpus c: .*nothing-\*.tar: no such shard \(its index: {tmp_path}/c.i"
    ):
        open_corpus("c", [str(tmp_path / "nothing-*.tar")])
    with pytest.raises(
        BadInput, match=f"lists {os.path.basename(shards[-1])}, which is not among the shards"
    ):
        open_corpus("c", shards[:-1])
    shutil.copy(shards[0], tmp_path / "d.tar")
    with pytest.raises(BadInput, match=r"does not list d\.tar"):
        open_corpus("c", [*shards, str(tmp_path / "d.tar")])
    with pytest.raises(
        BadInput, match=r"no index at .*d.index; make it: headrace data index '.*d.tar' --out"
    ):
        open_corpus("d", [str(tmp_path / "d.tar")])
    with pytest.raises(BadInput, match="local path"):
        open_corpus("d", ["https://example.org/d.tar"])


def test_damaged_and_foreign_indexes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "c", TEXTS)
    path = corpus.index.path
    data = path.read_bytes()
    for content, what in (
        (b"", "is not an index"),
        (b"HEADRACE" + b"\1" + data[9:], "version 1"),
        (data[:-8], "is cut off"),
        (data[:16] + b"{" * 64 + data[80:], "header is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=what):
            Index.open(path)
    path.write_bytes(data[:-8] + b"\1" * 8)
    assert not Index.open(path).intact()


def test_braces_and_globs(tmp_path: Path) -> None:
    for number in range(8, 12):
        (tmp_path / f"s-{number:04d}.tar").touch()
    names = [str(tmp_path / f"s-{number:04d}.tar") for number in range(8, 12)]
    assert expand([str(tmp_path / "s-{0008..0011}.tar")]) == names
    assert expand([str(tmp_path / "*.tar")]) == names
    assert expand(["https://h/a-{0..2}.tar"]) == [f"https://h/a-{number}.tar" for number in range(3)]
    with pytest.raises(BadInput, match=r"s-0012\.tar: no such shard"):
        expand([str(tmp_path / "s-{0011..0012}.tar")])


def test_units_grow_with_the_corpus_and_stay_as_the_index_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [0, 1, 256 << 30, (256 << 30) + 1, 512 << 30, (512 << 30) + 1, 10**13, 10**15]
    assert [unit_text_for(size) >> 10 for size in sizes] == [64, 64, 64, 128, 128, 256, 256, 256]
    monkeypatch.setattr(units, "_MANY", 8)  # half a megabyte is a large corpus
    for name, given in (("small", TEXTS[:20]), ("large", TEXTS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    small, large = (
        pack([tmp_path / f"{name}.jsonl"], tmp_path / name, shard_bytes=1_000_000)
        for name in ("small", "large")
    )
    made = [Index.open(report.index) for report in (small, large)]
    assert [index.unit_text >> 10 for index in made] == [64, 256]
    assert made[1].text_bytes / len(made[1]) > 1.5 * made[0].text_bytes / len(made[0])
    again = build_index([str(path) for path in large.shards], tmp_path / "again" / "large.index").index
    assert np.array_equal(again.units, made[1].units)
    grown = build_index([str(path) for path in [*small.shards, *large.shards]], small.index)
    assert grown.read == len(large.shards), "those that it knew are not read"
    assert grown.index.unit_text == 64 << 10
    names = [str(tmp_path / name) for name in grown.index.shards]
    at_once = build_index(names, tmp_path / "at-once.index", unit_text=64 << 10).index
    assert at_once.fingerprint == grown.index.fingerprint
    asked = build_index([str(path) for path in small.shards], small.index, unit_text=32 << 10)
    assert (asked.read, asked.index.unit_text) == (len(small.shards), 32 << 10)
    assert "--unit-kib 32" in remedy(small.index, ["a.tar"], asked.index.unit_text)


@pytest.mark.parametrize(("packed", "asked"), [(64, 256), (256, 64), (64, 100)])
def test_units_of_another_size_are_still_whole_frames(tmp_path: Path, packed: int, asked: int) -> None:
    """Else a shard of zstd would be unpacked whole for each of them."""
    report = pack_texts(tmp_path, "c", TEXTS, zstd=True, unit_text=packed << 10)
    shards, name = [str(path) for path in report.shards], tmp_path / "again" / "c.index"
    again = build_index(shards, name, unit_text=asked << 10).index
    assert again.units["stored_length"].all()
    assert len(again) == len(Index.open(report.index)) or asked > packed
    assert len(again) < len(Index.open(report.index)) or asked < packed
    assert read(open_corpus("c", shards, name)) == TEXTS
