"""The same bytes give the same text in every container: files, JSON lines, columns, tar members, packed or
not, and packed a second time."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data.prepare.build_index import build_index
from data.prepare.pack import PackReport, pack
from data.shards.corpus import open_corpus

TEXTS = [
    "\ufeffa mark at the beginning",
    "\ufeff\ufefftwo of them\ufeff and one inside",
    "one\r\ntwo\rthree\nfour\r\n",
    "\n\r\n  blanks \t and line ends around  \n\n",
    "\u2028\u0085 other line ends \x0b\x0c\x1c",
    "a\0b \x1a \ufffd \ufffe",
    "中文 e\u0301 🙂🏽‍🚀",
]
EXPECTED = [text.lstrip("\ufeff") for text in TEXTS]


def texts_of(*shards: Path) -> list[str | None]:
    corpus = open_corpus("c", [str(shard) for shard in shards])
    return [sample.text for unit in range(len(corpus)) for sample in corpus.read_unit(unit)]


def packed(folder: Path, *inputs: Path) -> tuple[PackReport, list[str | None]]:
    report = pack(inputs, folder / "packed" / "c")
    assert report.text_bytes == open_corpus("c", [str(path) for path in report.shards]).index.text_bytes
    return report, texts_of(*report.shards)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    build_index([str(path)], path.parent / "c.index")
    return path


@pytest.mark.parametrize("suffix", ["txt", "md", "py"])
def test_files(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(len(TEXTS))]
    for path, text in zip(paths, TEXTS):
        path.write_bytes(text.encode())
    assert packed(tmp_path, *paths)[1] == EXPECTED


@pytest.mark.parametrize(
    "suffix, mark", [("jsonl", b""), ("jsonl", b"\xef\xbb\xbf"), ("jsonl.gz", b"\xef\xbb\xbf")]
)
def test_json_lines(tmp_path: Path, suffix: str, mark: bytes) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=number % 2 == 0) for number, text in enumerate(TEXTS)]
    data = mark + "\r\n".join(lines).encode()
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert packed(tmp_path, path)[1] == EXPECTED


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    assert packed(tmp_path, path)[1] == EXPECTED


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_members_of_tars(tmp_path: Path, mark: bytes) -> None:
    texts = {f"{number}.txt": text.encode() for number, text in enumerate(TEXTS)}
    plain = tar_of(tmp_path / "plain.tar", texts)
    assert texts_of(plain) == EXPECTED
    records = {
        f"{number}.json": mark + json.dumps({"text": text}).encode() for number, text in enumerate(TEXTS)
    }
    assert texts_of(tar_of(tmp_path / "records.tar", records)) == EXPECTED


WIDE = {
    "le": "\ufeffplain text\r\n".encode("utf-16-le"),
    "be": "\ufeffplain text\r\n".encode("utf-16-be"),
    "no mark": "plain text\r\n".encode("utf-16-le"),
    "no mark, be": "plain text\r\n".encode("utf-16-be"),
    "chinese": "\ufeff中文".encode("utf-16-le"),
}


@pytest.mark.parametrize("kind", [*WIDE, "utf-32", "latin-1"])
def test_another_encoding_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    others = {"utf-32": "\ufeffplain".encode("utf-32-le"), "latin-1": "caf\xe9 au lait".encode("latin-1")}
    data = {**WIDE, **others}[kind]
    name = kind.upper() if kind == "utf-32" else "UTF-16"
    what = f"not UTF-8 but {name}; turn it into UTF-8 first: iconv -f {name} -t UTF-8"
    what = "not UTF-8" if kind == "latin-1" else what
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "wide.txt").write_bytes(data)
    report, texts = packed(tmp_path, tmp_path / "good.txt", tmp_path / "wide.txt")
    assert texts == ["good"]
    assert report.balance.left_out == {what: 1}
    shard = tar_of(tmp_path / "x.tar", {"a.txt": b"good", "b.txt": data, "c.json": data})
    corpus = open_corpus("c", [str(shard)])
    assert [sample.problem for sample in corpus.read_unit(0)] == [None, what, what]


def test_a_file_of_a_mark_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "good.txt").write_text("good")
    report, texts = packed(tmp_path, tmp_path / "mark.txt", tmp_path / "good.txt")
    assert (texts, report.balance.left_out) == (["good"], {"empty": 1})
