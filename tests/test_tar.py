"""The header scan against tars that Python's tarfile wrote, in every format that it knows."""

import io
import tarfile

import pytest

from data.tar import TarTrouble, extents, has_end_mark, members, members_end, samples, split_name


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


def test_a_global_pax_header_is_passed_over_unless_it_renames() -> None:
    data = tar_of([("a.txt", b"1")], tarfile.PAX_FORMAT, pax_headers={"comment": "from git archive"})
    assert [member.name for member in members(data)] == ["a.txt"]
    with pytest.raises(TarTrouble, match="global PAX header"):
        list(members(tar_of([("a.txt", b"1")], tarfile.PAX_FORMAT, pax_headers={"path": "b.txt"})))


def test_folders_and_links_are_passed_over() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, link in (("d", tarfile.DIRTYPE, ""), ("d/l", tarfile.SYMTYPE, LONG)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
        member = tarfile.TarInfo("d/a.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert [member.name for member in members(stream.getvalue())] == ["d/a.txt"]


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
    assert "no field 'text' of text" in problems[2]
    assert "is not JSON" in problems[3]
    assert problems[4] == "not UTF-8"
    assert problems[5] == "no text: it is empty"
    assert [sample.text for sample in samples(data, "other")][2] == "else"
    assert samples(data, "other")[0].text is None  # a field was asked for, so .txt does not count


def test_extents_tile_the_tar() -> None:
    data = tar_of([("1.txt", b"a" * 600), (LONG + ".txt", b"b"), ("3.txt", b"c")], tarfile.GNU_FORMAT)
    found = list(extents(data))
    assert found[0].start == 0
    assert found[1].start == 1536
    end = members_end(data, found[-1].start)
    assert has_end_mark(data, end)
    parts = [data[a.start : b] for a, b in zip(found, [x.start for x in found[1:]] + [end])]
    assert [samples(part)[0].text for part in parts] == ["a" * 600, "b", "c"]
