"""The header scan against tars that Python's tarfile wrote, in every format that it knows."""

import bz2
import io
import lzma
import random
import tarfile
from collections.abc import Callable

import pytest

from data.balance import Balance
from data.shards.samples import USUAL, Reading, samples, scan, split_name
from data.shards.tar import members, plain_members
from data.shards.tar_fields import TarTrouble


def tar_of(entries: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT, **options: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, **options) as tar:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


LONG = "folder/" * 40 + "name" * 5  # 300 characters
assert len(LONG) == 300

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["a", LONG, "x" * 100, "y" * 101, "ünïcode/文", "p" * 150 + "/" + "q" * 90])
def test_names_and_contents_are_those_that_tarfile_reads(name: str, format: int) -> None:
    entries = [("before.txt", b"1"), (name + ".txt", b"two" * 400), ("after.txt", b"")]
    data = tar_of(entries, format)
    found = [(m.name, data[m.data : m.data + m.size]) for m in members(data)]
    assert found == entries


def test_ustar_prefix() -> None:
    name = "p" * 150 + "/" + "q" * 90 + ".txt"
    data = tar_of([(name, b"text")])
    assert [member.name for member in members(data)] == [name]


def test_a_pax_size_and_a_base_256_size() -> None:
    data = bytearray(tar_of([("a.txt", b"x" * 700), ("b.txt", b"y")]))
    data[124:136] = b"\x80" + (700).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 256)
    assert [(m.name, m.size) for m in members(bytes(data))] == [("a.txt", 700), ("b.txt", 1)]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("c.txt")
        member.size = 700
        member.pax_headers = {"size": "700", "comment": "with = and \n in it"}
        tar.addfile(member, io.BytesIO(b"z" * 700))
    assert [(m.name, m.size) for m in members(stream.getvalue())] == [("c.txt", 700)]


@pytest.mark.parametrize("size", [b"-0000001000\0", b"-1\0" + bytes(9), b"00000000009\0"])
def test_a_size_that_is_none_is_refused(size: bytes) -> None:
    """-01000 would end the member where its header begins, and it would be read for ever."""
    data = bytearray(tar_of([("a.txt", b"x"), ("b.txt", b"y")]))
    data[1024 + 124 : 1024 + 136] = size
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % (sum(data[1024:1536]) - sum(data[1172:1180]) + 256)
    with pytest.raises(TarTrouble, match="no tar header at byte 1024: a number in it is b'") as caught:
        list(members(bytes(data)))
    assert str(caught.value).endswith(repr(size))


def test_a_pax_size_that_is_none_is_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.txt")
        member.pax_headers = {"size": "9" * 5000}
        tar.addfile(member)
    with pytest.raises(TarTrouble, match="the PAX header at byte 0 is damaged"):
        list(members(stream.getvalue()))


def test_a_global_pax_header_is_passed_over_unless_it_renames() -> None:
    data = tar_of([("a.txt", b"1")], tarfile.PAX_FORMAT, pax_headers={"comment": "from git archive"})
    assert [member.name for member in members(data)] == ["a.txt"]
    with pytest.raises(TarTrouble, match="global PAX header"):
        list(members(tar_of([("a.txt", b"1")], tarfile.PAX_FORMAT, pax_headers={"path": "b.txt"})))


def test_folders_are_passed_over_and_links_told_of() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, link in (("d", tarfile.DIRTYPE, ""), ("d/l", tarfile.SYMTYPE, LONG)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
        member = tarfile.TarInfo("d/a.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    found = [(member.name, member.problem) for member in members(stream.getvalue())]
    assert found == [("d/l", "symbolic link"), ("d/a.txt", None)]


def test_every_cut_is_noticed_with_its_offset() -> None:
    data = tar_of([("a.txt", b"x" * 700), ("b.txt", b"y" * 10)])
    for cut, where in ((100, "header that begins at 0"), (600, "member at byte 0"), (1600, "begins at 1536")):
        with pytest.raises(TarTrouble, match=f"cut off at byte {cut}.*{where}"):
            list(members(data[:cut]))


def test_damage_in_a_header_is_noticed() -> None:
    data = bytearray(tar_of([("a.txt", b"x" * 700), ("b.txt", b"y" * 10)]))
    data[1536 + 3] ^= 1
    with pytest.raises(TarTrouble, match="no tar header at byte 1536"):
        list(members(bytes(data)))
    with pytest.raises(TarTrouble, match="no tar header at byte 0"):
        list(members(b"not a tar at all" * 64))


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_what_is_packed_by_others_is_told_from_damage(pack: Callable[[bytes], bytes]) -> None:
    named = tar_of([("BZh9.txt", b"a name that looks like bzip2")])
    assert [member.name for member in members(named)] == ["BZh9.txt"]
    with pytest.raises(TarTrouble, match=r"is packed by bzip2 or xz; expected a \.tar, \.tar\.gz"):
        list(members(pack(random.Random(0).randbytes(2000))))


def test_keys_are_webdatasets() -> None:
    assert split_name("a/b.c/0001.en.txt") == ("a/b.c/0001", "en.txt")
    assert split_name("./0001.txt") == ("./0001", "txt")
    assert split_name("a/.hidden") is split_name("README") is split_name("__meta__.x__") is None


def test_members_of_one_key_are_one_sample() -> None:
    entries = [
        ("1.json", b'{"url": "u"}'),
        ("1.txt", b"first"),
        ("2.jpg", b"\xff\xd8"),
        ("2.md", b"# second"),
        ("3.json", b'{"text": "third", "other": "else"}'),
        ("4.txt", b"\xff\xfe"),
        ("5.jpg", b"picture"),
        ("6.json", b'{"text": 6}'),
        ("7.json", b"{"),
        ("8.json", rb'{"text": "\ud800"}'),
        ("9.txt", b""),
    ]
    data = tar_of(entries)
    found = samples(data)
    assert [sample.key for sample in found] == [str(number) for number in range(1, 10)]
    assert [sample.text for sample in found[:3]] == ["first", "# second", "third"]
    problems = [str(sample.problem) for sample in found[3:]]
    assert problems[0] == "not UTF-8"
    assert problems[1] == "no text"
    assert problems[2] == "no text: no field 'text' of text"
    assert problems[3] == "no text: not JSON"
    assert problems[4] == "not UTF-8"
    assert problems[5] == "no text: it is empty"
    assert [sample.text for sample in samples(data, Reading("other"))][2] == "else"
    assert samples(data, Reading("other"))[0].text is None  # a field was asked for, so .txt does not count


def test_extents_tile_the_tar() -> None:
    data = tar_of([("1.txt", b"a" * 600), (LONG + ".txt", b"b"), ("3.txt", b"c")], tarfile.GNU_FORMAT)
    found = list(scan(data, USUAL, Balance()))
    assert found[0].start == 0
    assert found[1].start == found[0].end == 1536
    parts = [data[extent.start : extent.end] for extent in found]
    assert [samples(part)[0].text for part in parts] == ["a" * 600, "b", "c"]


ODD_TEXTS = [
    b"",
    b"plain " * 90,
    b"x" * 512,
    "gr\u00fcn \u6587".encode() * 40,
    "\ufeffmarked".encode(),
    b"caf\xe9",
    "wide".encode("utf-16"),
    b"a\0b\0c\0d\0e\0",
    tar_of([("inner.txt", b"a text that holds a tar"), ("more.txt", b"y" * 600)]),
    tar_of([("000000099.txt", b"z")])[:1024],
    tar_of([("000000099.json", b"z" * 513), ("000000099.txt", b"")], tarfile.GNU_FORMAT),
]


def a_run(generator: random.Random) -> bytes:
    """Samples as we pack them, mostly, and what others pack; without the mark of an end."""
    format = generator.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    width = generator.choice([1, 9, 12] if format == tarfile.USTAR_FORMAT else [9, 94, 95, 96])
    style, first = generator.choice(["pairs", "texts", "others"]), generator.randrange(50)
    entries: list[tuple[str, bytes]] = []
    for number in range(first, first + generator.randrange(1, 9)):
        key, text = f"{number:0{width}d}", generator.choice(ODD_TEXTS)
        if generator.random() < 0.05:
            before = entries[-1][0].split(".")[0] if entries else "i"
            key = generator.choice(
                ["a.b", "__c__", "", "h\u00fc", before, key[1:] + generator.choice("./ \u00fc_")]
            )
        beside = key if generator.random() > 0.1 else f"{number + 1:0{width}d}"
        if style == "pairs":
            entries.append((f"{beside}.json", b'{"source": "x"}'))
        elif style == "others" and generator.random() < 0.5:
            entries.append((f"{beside}.{generator.choice(['json', 'md', 'TXT', 'jpg', 'en.txt'])}", text))
        entries.append((f"{key}.txt", text))
    data = tar_of(entries, format)
    return data[: max(member.end for member in members(data))]


def read(run: bytes, reading: Reading, check: bool) -> object:
    try:
        return samples(memoryview(run), reading, check=check)
    except TarTrouble as error:
        return str(error)


def test_a_run_read_at_once_is_what_is_read_member_by_member() -> None:
    """`check` has each header looked at by itself."""
    generator, at_once = random.Random(1), 0
    for _ in range(300):
        run = a_run(generator)
        at_once += plain_members(run) is not None
        for data in (run, run + bytes(1024), run[:-512], run[:-1], run[:511], run + run[:512]):
            for reading in (USUAL, Reading(text_field="source"), Reading(text_member="en.txt")):
                assert read(data, reading, False) == read(data, reading, True)
    assert 80 < at_once < 260
