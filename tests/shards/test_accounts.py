"""Every member of a shard is used or left out by name, whatever wrote the tar: the account closes."""

import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data.access.compression import packing_of, unpack
from data.errors import BadInput
from data.prepare.build_index import build_index
from data.prepare.verify import verify
from data.shards.corpus import open_corpus
from data.shards.index import Index
from data.shards.samples import METADATA, Reading
from data.shards.tar import BEHIND, HOLES
from data.shards.tar_fields import TarTrouble
from tests.shards.test_pack import read
from tests.shards.test_tar import tar_of


def indexed(path: Path, content: bytes, reading: Reading = Reading()) -> Index:  # noqa: B008
    """The index of a shard of these bytes, which verify finds as it says."""
    path.write_bytes(content)
    index = build_index([str(path)], path.with_suffix(".index"), reading=reading).index
    report = verify(index.path)
    assert not report.damaged
    assert (report.balance.used, report.balance.left_out) == (index.balance.used, index.balance.left_out)
    return index


def keys(index: Index) -> list[str]:
    """Of the documents that have a text, in order."""
    corpus = open_corpus("c", [str(index.path.with_suffix(".tar"))], index.path)
    return [sample.key for unit in range(len(index)) for sample in corpus.read_unit(unit) if sample.text]


def test_names_with_dots_and_names_that_stand_twice(tmp_path: Path) -> None:
    entries = [(f"2101.{number:05d}.txt", b"paper") for number in range(3)]
    entries += [("a.txt", b"one"), ("a.txt", b"two"), ("b.txt", b"1"), ("c.txt", b"2"), ("b.txt", b"3")]
    entries += [("d.en.txt", b"en"), ("d.de.md", b"de"), ("d.json", b"{}"), ("d.jpg", b"\xff")]
    index = indexed(tmp_path / "a.tar", tar_of(entries))
    assert keys(index) == [
        *("2101.00000.txt", "2101.00001.txt", "2101.00002.txt"),
        *("a.txt", "a.txt", "b", "c", "b", "d.en.txt", "d.de.md"),
    ]
    assert index.balance.used == 10
    assert index.balance.left_out == {METADATA: 1, "not text: .jpg": 1}
    one = indexed(tmp_path / "b.tar", tar_of(entries[-4:]), Reading(text_member="de.md"))
    assert keys(one) == ["d"]
    assert one.balance.left_out == {"not the .de.md that is read": 3}
    with pytest.raises(BadInput, match=r"made for text_member 'de\.md', .* --text-member en\.txt"):
        open_corpus("b", [str(tmp_path / "b.tar")], reading=Reading(text_member="en.txt"))


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_what_stands_behind_an_end_mark_is_read(tmp_path: Path, packing: str) -> None:
    tars = [tar_of([(f"{name}.txt", name.encode() * 900)]) for name in "abc"]
    pack = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[packing]
    joined = pack(tars[0]) + pack(tars[1] + bytes(100 * 512)) + pack(tars[2] + b"rubbish" * 100)
    index = indexed(tmp_path / "a.tar", joined)
    assert keys(index) == ["a", "b", "c"]
    assert index.balance.left_out == {BEHIND: 1}
    assert "from byte" in index.balance.names[BEHIND][0]


def test_links_devices_and_names_without_a_key_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "README", "__x__.txt", ".hidden.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "a.txt")
    (tmp_path / "soft.txt").symlink_to("a.txt")
    subprocess.run(["mkfifo", tmp_path / "pipe.txt"], check=True)
    names = ["a.txt", "hard.txt", "soft.txt", "pipe.txt", "README", "__x__.txt", ".hidden.txt"]
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "s.tar", *names], check=True)
    index = indexed(tmp_path / "s.tar", (tmp_path / "s.tar").read_bytes())
    assert keys(index) == ["a", "__x__"]
    left = {"hard link": 1, "symbolic link": 1, "FIFO": 1, "not named KEY.EXTENSION": 2}
    assert index.balance.left_out == left
    assert index.balance.names["hard link"] == ["s.tar/hard.txt"]


def test_a_hard_link_that_brings_its_bytes_is_a_file(tmp_path: Path) -> None:
    """As pax may write one; the size alone does not tell."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT):
        for name, kind in (
            ("a.txt", tarfile.REGTYPE),
            ("b.txt", tarfile.LNKTYPE),
            ("c.txt", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "a.txt" * (kind == tarfile.LNKTYPE), 600
            stream.write(member.tobuf(tarfile.PAX_FORMAT))
            if name != "c.txt":
                stream.write(name[0].encode() * 600 + bytes(424))
    index = indexed(tmp_path / "a.tar", stream.getvalue() + bytes(1024))
    assert keys(index) == ["a", "b"]
    assert index.balance.left_out == {"hard link": 1}


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members_are_read_where_they_have_no_holes(tmp_path: Path, form: str) -> None:
    with (tmp_path / "holes.txt").open("wb") as file:
        for number in range(40):  # more runs than a header of GNU's old form has room for
            file.seek(number << 16)
            file.write(b"text " * 900)
    (tmp_path / "whole.txt").write_text("whole")
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    command = ["tar", "-C", tmp_path, "-S", *options, "-cf", tmp_path / "s.tar", "holes.txt", "whole.txt"]
    subprocess.run(command, check=True)
    index = indexed(tmp_path / "s.tar", (tmp_path / "s.tar").read_bytes())
    assert keys(index) == ["whole"]
    assert index.balance.left_out == {HOLES: 1}
    assert index.balance.names[HOLES] == ["s.tar/holes.txt"]


@pytest.mark.parametrize("version", ["0.1", "1.0"])
def test_a_sparse_member_whose_map_has_no_hole_is_an_ordinary_one(tmp_path: Path, version: str) -> None:
    """What tar -S writes on file systems that compress."""
    text = b"all of it " * 100
    headers = {"GNU.sparse.name": "a.txt", "GNU.sparse.realsize": "1000", "GNU.sparse.size": "1000"}
    data = text
    if version == "1.0":
        headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        data = b"2\n0\n600\n600\n400\n".ljust(512, b"\0") + text
    else:
        headers["GNU.sparse.map"] = "0,600,600,400,1000,0"
    member = tarfile.TarInfo("GNUSparseFile.0/a.txt")
    member.size, member.pax_headers = len(data), headers
    content = member.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)
    index = indexed(tmp_path / "s.tar", content)
    assert read(open_corpus("s", [str(tmp_path / "s.tar")])) == [text.decode()]
    assert index.balance.left_out == {}
    damaged = content.replace(b"2\n0\n600", b"9\n0\n600").replace(b"0,600,600,400", b"0,600,600,4x0")
    (tmp_path / "d.tar").write_bytes(damaged)
    with pytest.raises((BadInput, TarTrouble), match=r"d\.tar: the map of the sparse file .* is damaged"):
        build_index([str(tmp_path / "d.tar")], tmp_path / "d.index")


def test_a_damaged_shard_keeps_its_account(tmp_path: Path) -> None:
    entries = [(f"{number}.txt", b"text " * 300_000) for number in range(3)]
    index = indexed(tmp_path / "a.tar", tar_of(entries))
    for at, what in ((512 + 5, "unit"), (1_500_160 + 512 + 3, "shard")):  # in a text; in a name of none
        content = bytearray(tar_of(entries))
        content[at] ^= 1
        (tmp_path / "a.tar").write_bytes(content)
        report = verify(index.path)
        assert {finding.kind for finding in report.findings} == {what}
        assert report.balance.there == index.balance.there
    (tmp_path / "a.tar").write_bytes(tar_of(entries)[:2_000_000])
    assert verify(index.path).balance.there == index.balance.there


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_what_repeats_itself_is_unpacked_a_little_at_a_time(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"all alike, " * (40 << 20))
    sizes = [len(piece) for piece in unpack([packed], packing_of(packed[:4]))]
    assert sum(sizes) == 11 * (40 << 20)
    assert max(sizes) < 64 << 20
    assert packing_of(b"\x50\x2a\x4d\x18") == "zstd"
