"""What enters from folders and globs: every file once, and what is passed over counted and named."""

import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data.errors import BadInput
from data.prepare.build_index import build_index
from data.prepare.pack import pack
from data.shards.corpus import open_corpus
from data.shards.walk import HIDDEN, TWICE, below, matching
from data.sources.documents import Limits
from data.sources.json_values import json_values
from tests.shards.test_pack import read
from tests.support.helpers import make_corpus, read_files

NOTHING, LOOP = "a link to nothing", "a link that leads to itself"
PIPE, SOCKET = "a named pipe", "a socket"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything, and six texts to be read in it."""
    top = tmp_path / "in"
    for folder in ("a", "b/deep", ".git", "../elsewhere/sub"):
        (top / folder).mkdir(parents=True)
    for name in (
        "1.txt",
        "a/2.txt",
        "b/3.TXT",
        "b/deep/4.txt",
        "../elsewhere/5.txt",
        "../elsewhere/sub/6.txt",
    ):
        (top / name).write_text(name[-5])
    (top / ".git" / "x.txt").write_text("hidden")
    (top / ".hidden.txt").write_text("hidden")
    (top / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (top / "b" / "linked too").symlink_to(tmp_path / "elsewhere")
    (top / "b" / "up").symlink_to("..")
    (top / "a" / "again.txt").hardlink_to(top / "b" / "3.TXT")
    (top / "nothing.txt").symlink_to("nowhere")
    (top / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(top / "pipe.txt")
    monkeypatch.chdir(top)  # the name of a socket may be no longer than 107 bytes
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.txt")
    return top


@pytest.mark.parametrize("given", ["{}", "{}/**/*", "{}/**", "{}/../in"])
def test_a_balance_that_closes_by_folder_and_by_glob(tree: Path, tmp_path: Path, given: str) -> None:
    report = pack([given.format(tree)], tmp_path / "c")
    assert report.walk
    assert sorted(read(open_corpus("c", [str(tmp_path / "c-*.tar")]))) == list("123456")
    assert report.walk.balance.left_out == {HIDDEN: 1, TWICE: 1, NOTHING: 1, LOOP: 1, PIPE: 1, SOCKET: 1}
    assert report.walk.not_entered.left_out == {HIDDEN: 1, TWICE: 2}
    nothing = f"1 × {NOTHING}: {given.format(tree).rstrip('*/')}/nothing.txt"
    assert nothing in report.walk.lines()


def test_folders_that_a_glob_names_are_entered(tree: Path, tmp_path: Path) -> None:
    """As those that the shell makes of it."""
    report = pack([f"{tree}/*"], tmp_path / "c")
    assert report.samples == 6
    assert report.walk
    assert report.walk.balance.left_out[NOTHING] == 2  # of its own, and by the link to the folder above


def test_the_order_is_that_of_names_whichever_is_the_link(tmp_path: Path) -> None:
    found = []
    for case, (real, link) in enumerate([("m", "z"), ("z", "m")]):
        top = tmp_path / str(case)
        (top / real).mkdir(parents=True)
        (top / link).symlink_to(real)
        for name in ("x.txt", "y.txt"):
            (top / real / name).write_text(name)
        (top / "a.txt").symlink_to(f"{real}/y.txt")
        for files in (below(str(top)), matching(f"{top}/**/*.txt")):
            found.append([(one.path.removeprefix(str(top)), one.reason) for one in files])
    assert found[0] == found[2] == [("/a.txt", None), ("/m/x.txt", None), ("/m/y.txt", None), ("/z", TWICE)]
    assert found[1] == found[3]


def test_a_tree_deeper_than_the_stack_and_names_that_are_no_text(tmp_path: Path) -> None:
    deep = os.path.join(tmp_path, "d")
    os.mkdir(deep)
    for _ in range(1200):
        deep += "/d"
        os.mkdir(deep)
    for name, content in ((b"good.txt", b"good"), (b"\xff\n.txt", b"\xff")):
        Path(deep, os.fsdecode(name)).write_bytes(content)
    report = pack([tmp_path / "d"], tmp_path / "c")
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # too deep for pytest
    assert report.samples == 1
    assert report.balance.names["not UTF-8"][0].endswith(r"\udcff\n.txt' at byte 0")


ROWS = [{"text": f"row {n} " + "wörd 😀 " * (n % 7)} for n in range(900)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
FORMS: dict[str, bytes] = {
    "a.ndjson": LINES,
    "a.JSONL": LINES,
    "a.json": LINES,
    "array.json": json.dumps(ROWS, ensure_ascii=False).encode(),
    "arrays.JSON": json.dumps(ROWS[:400]).encode() + b"\n" + json.dumps(ROWS[400:], indent=2).encode(),
    "pretty.json": b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS),
    "bom.json": b"\xef\xbb\xbf" + LINES,
    "a.jsonl.gz": gzip.compress(LINES[:999]) + gzip.compress(LINES[999:]),
    "a.ndjson.GZ": gzip.compress(LINES),
    "a.json.zst": zstandard.compress(LINES[:999]) + zstandard.compress(LINES[999:]),
    "p.jsonl.zst": b"\x50\x2a\x4d\x18\4\0\0\0abcd" + zstandard.compress(LINES),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_in_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    found = list(read_files([str(tmp_path / name)], "text", Limits(1 << 24, tmp_path)))
    assert [document.text for document in found] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_json_values_wherever_a_chunk_ends(size: int) -> None:
    data = b'[1, 23 , {"a": "\\u00e9\xc3\xa9"}, true, [[]], "x"] 45 null\n{"a": tru}\n-1.5e3[] "\xff" ["end"'
    values = list(json_values(data[i : i + size] for i in range(0, len(data), size)))
    assert [value.value for value in values if value.problem is None] == [
        *(1, 23, {"a": "éé"}, True, [[]], "x", 45, None, -1500.0, "\udcff", "end")
    ]
    assert [value.problem for value in values if value.problem] == [
        "not JSON",
        "not JSON, and the rest of its array is not read",
    ]


def test_an_array_costs_what_an_element_does(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[" + ",".join(json.dumps({"text": "word " * 200}) for _ in range(40_000)) + "]")
    code = (
        "import re; from data.sources.documents import Limits; from data.sources.pieces import Piece;"
        "from data.sources.read_files import FileReader; read = FileReader('text', Limits(1 << 24, None));"
        f"print(sum(len(batch.sizes) for batch in read([Piece({str(path)!r}, 0)])),"
        "*re.findall('VmHWM:\\\\s+([0-9]+)', open('/proc/self/status').read()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 40_000
    assert peak < 80 << 10  # KiB; the file has 40 MB


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.csv", b"text", "is a .csv file (write its rows as .jsonl or .parquet); expected one of"),
        ("A.PDF", b"%PDF", "is a .pdf file (write its text as .txt or .jsonl)"),
        ("a.txt.bz2", b"BZh", "is a .bz2 file (unpack it"),
        ("a.tar.gz", b"\x1f\x8b", "is a .tar file (shards are for headrace data index"),
        ("README", b"text", "is of another suffix (if it is text, name it .txt)"),
        ("a.txt", gzip.compress(b"text", mtime=0), "1 × gzip data under a name that says plain: rename it"),
        ("a.jsonl.gz", b'{"text": "plain"}\n', "1 × plain data under a name that says gzip: rename it"),
        (
            "a.txt.gz",
            gzip.compress(b"text", mtime=0)[:-3],
            "cut off at byte 21, inside its gzip data; is it",
        ),
        ("a.md.zst", zstandard.compress(b"text") + b"more", "its zstd data are damaged near byte"),
        ("a.json", b"", "1 × empty"),
        ("a.json", b"[]", "1 × empty"),
    ],
)
def test_what_is_not_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        pack([tmp_path / name], tmp_path / "c")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda path: path.symlink_to("nowhere"), NOTHING),
        (lambda path: path.symlink_to(path.name), LOOP),
        (os.mkfifo, PIPE),
    ],
)
def test_a_named_input_that_is_no_file_is_one_line(
    tmp_path: Path, make: Callable[[Path], None], expected: str
) -> None:
    text, shard = tmp_path / "a.txt", tmp_path / "a.tar"
    make(text)
    make(shard)
    with pytest.raises(BadInput, match=f"a.txt: {expected}, expected a file"):
        pack([text], tmp_path / "c")
    with pytest.raises(BadInput, match=f"a.tar: {expected}, expected a shard"):
        build_index([str(shard)], tmp_path / "c.index")


def test_shards_of_a_glob_are_used_once(tmp_path: Path) -> None:
    """By the index, and by a corpus whose glob matches the same."""
    make_corpus(tmp_path / "s", "c", [f"text {n} " * 999 for n in range(30)], shard_bytes=99_000)
    first = tmp_path / "s" / "c-000000.tar"
    (tmp_path / "s" / "b.tar").symlink_to(first)
    (tmp_path / "s" / "sub").mkdir()
    (tmp_path / "s" / "sub" / "up").symlink_to("..")
    (tmp_path / "s" / "sub" / "d.tar").hardlink_to(first)
    (tmp_path / "s" / "gone.tar").symlink_to("nowhere")
    os.mkfifo(tmp_path / "s" / "pipe.tar")
    given = [str(tmp_path / "s" / "**" / "*.tar")]
    report = build_index(given, tmp_path / "c.index")
    assert len(report.walk.files) == len(report.index.shards) == 2
    assert report.walk.balance.left_out == {TWICE: 2, NOTHING: 1, PIPE: 1}
    assert report.walk.not_entered.left_out == {TWICE: 1}
    assert report.index.samples == open_corpus("c", given, tmp_path / "c.index").index.samples == 30
