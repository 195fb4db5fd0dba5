"""Documents of any length: cut into parts of at most 1 MiB, which are one document all the same."""

import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import BadInput
from data.plan.held_out import held_out_units
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.prepare.build_index import build_index
from data.prepare.pack import pack
from data.prepare.scan_shard import LONG_JSON
from data.prepare.verify import verify
from data.shards import parts
from data.shards.corpus import Corpus, open_corpus
from data.shards.find import find_documents
from data.shards.parts import cut
from data.sources.documents import Limits
from data.sources.long_text import LongText
from data.stream.block import Opener
from data.stream.reading import read_documents
from tests.shards.test_tar import tar_of
from tests.support.helpers import Corpora, read_files
from tests.support.stream_runs import Ledger, run, settings, start, texts

PART = 2_000
WORDS = [
    "river",
    "mill",
    "stone",
    "wheel",
    "race",
    "head",
    "water",
    "grain",
    "flour",
    "baker",
    "village",
    "road",
    "bridge",
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 2 000 bytes, so that a few kilobytes are a long document."""
    for name in (
        *("sources.batch", "sources.json_lines", "sources.parquet"),
        "prepare.pack",
        "prepare.scan_shard",
    ):
        monkeypatch.setattr(f"data.{name}.PART", PART)
    monkeypatch.setattr(parts, "PART", PART)


def book(size: int, seed: int = 1) -> str:
    chosen = random.Random(seed).choices(WORDS, k=size // 5)
    return " ".join(chosen)


def joined(corpus: Corpus) -> dict[str, str]:
    """Key → text, its parts put together."""
    whole: dict[str, str] = {}
    for unit in range(len(corpus)):
        for sample in corpus.read_unit(unit):
            assert bool(sample.part) == (sample.key in whole)
            whole[sample.key] = whole.get(sample.key, "") + (sample.text or "")
    return whole


@pytest.mark.parametrize(
    "text, end",
    [
        ("one line\nand more text", len("one line\n")),
        ("no line end here", len("no line end ")),
        ("一" * 8, 21),
        ("　".join("一二三"), len("一　二　".encode())),
        ("abcde\u0301", 4),  # e and its accent stay together
        ("ab\U0001f468\u200d\U0001f469", 2),  # a family is one character
        ("ก" * 3 + "ำ", 6),
        ("\u0301" * 6, 12),
    ],
)
def test_where_a_part_ends(text: str, end: int) -> None:
    assert cut(text.encode()) == end


def test_a_part_is_cut_within_no_character_and_no_bytes_are_lost() -> None:
    generator = random.Random(3)
    alphabet = "ab \né一😀\u0301\u200dก"
    for _ in range(300):
        data = "".join(generator.choices(alphabet[generator.randrange(4) :], k=40)).encode()
        window = data[: generator.randrange(8, len(data))]
        end = cut(window)
        assert 0 < end <= len(window)
        window[:end].decode()


def test_a_long_document_is_the_same_packed_and_indexed(tmp_path: Path, small_parts: None) -> None:
    given = [*texts(40, 1), book(9_000), *texts(40, 2), book(2_500, 2), "\ufeff" + book(5_000, 3)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in given)
    (tmp_path / "in.jsonl").write_text(lines)
    for zstd in (False, True):
        suffix = "tar.zst" if zstd else "tar"
        packed = pack([tmp_path / "in.jsonl"], tmp_path / f"z{zstd}", zstd=zstd, shard_bytes=12_000)
        shards = str(tmp_path / f"z{zstd}-*.{suffix}")
        corpus = open_corpus("z", [shards], packed.index)
        assert list(joined(corpus).values()) == [text.removeprefix("\ufeff") for text in given]
        placed = list(corpus.table.placed_in(0, len(corpus)))
        own = [unit for one in placed for unit in range(one.unit, one.unit + one.parts)]
        assert corpus.index.units["text_bytes"][own].max() <= PART
        again = build_index([shards], tmp_path / "again.index").index
        assert again.table.checksum() == corpus.table.checksum()
        assert again.balance == corpus.index.balance
        assert not verify(packed.index).findings
        assert [one.parts for one in placed] == [6, 2, 3]
        name = find_documents(corpus, ["000000040"])["000000040"][0].name
        assert [len(one.places) for one in find_documents(corpus, [name])[name]] == [6]


def test_a_large_sample_of_others_is_read_document_by_document(tmp_path: Path, small_parts: None) -> None:
    video = bytes(5 << 20)
    entries = [("a.txt", b"short"), ("b.mp4", video), ("b.json", b'{"text": "beside a film"}')]
    entries += [
        ("c.txt", book(5_000).encode()),
        ("c.json", b"{}"),
        ("d.json", json.dumps({"text": book(3_000)}).encode()),
    ]
    entries += [("e.txt", book(3_000).encode() + b"\xff"), ("f.mp4", video), ("g.txt", b"end")]
    (tmp_path / "a.tar").write_bytes(tar_of(entries))
    index = build_index([str(tmp_path / "a.tar")], tmp_path / "a.index").index
    corpus = open_corpus("a", [str(tmp_path / "a.tar")])
    assert {key: len(text) for key, text in joined(corpus).items() if text} == {
        "a": 5,
        "b": 13,
        "c": len(book(5_000)),
        "g": 3,
    }
    left = {"not text: .mp4": 2, ".json beside a text": 1, LONG_JSON: 1, "not UTF-8": 1}
    assert (index.balance.used, index.balance.left_out) == (4, left)
    assert index.units["length"].max() < 10_000  # no film is read
    problems = {s.key: s.problem for unit in range(len(corpus)) for s in corpus.read_unit(unit) if s.problem}
    assert problems == {"d": LONG_JSON, "e": "not UTF-8", "f": "no text"}
    assert not verify(index.path).damaged


@pytest.fixture
def long_corpus(tmp_path: Path, small_parts: None) -> Corpus:
    given = [*texts(60, 1), book(15_000), *texts(60, 2), book(7_000, 2), book(9_000, 3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    packed = pack([tmp_path / "in.jsonl"], tmp_path / "a")
    return open_corpus("a", [str(tmp_path / "a-*.tar")], packed.index)


def test_rows_of_long_documents_are_equal_for_any_ranks_and_nothing_is_lost(
    long_corpus: Corpus, corpora: Corpora
) -> None:
    tokenizer = corpora.tokenizer()
    corpus = {"a": long_corpus}
    objectives = {"causal": {}, "nsp": {}, "span": {}}
    history = start(settings(tokenizer, corpus, {"a": 1}, block_bytes=3_000, objectives=objectives))
    alone = run(history, corpus, tokenizer, 30)
    for world, threads in ((3, 2), (5, 0)):
        other = run(history, corpus, tokenizer, 30, world=world, threads=threads)
        assert (other.rows, other.state) == (alone.rows, alone.state)
    ledger = Ledger()
    state = ledger.walk(history, corpus, tokenizer, 0, 3_000, StreamPositions())
    assert ledger.check(history, corpus, tokenizer, state)["a"] >= 1


def test_parts_share_quarantine_and_begin_and_end_their_document_once(
    long_corpus: Corpus, corpora: Corpora
) -> None:
    tokenizer = corpora.tokenizer()
    (book_,) = find_documents(long_corpus, ["000000060"])["000000060"]
    units = [unit for unit, _ in book_.places]
    documents = read_documents(long_corpus, tokenizer, 1, "a", 0, units)
    assert documents.tokens.closes.tolist() == [False] * (len(units) - 1) + [True]
    assert set(documents.tokens.origin.tolist()) == {0}
    assert documents.named({book_.name}).all()
    given = settings(tokenizer, {"a": long_corpus}, {"a": 1}, block_bytes=3_000)
    history = start(replace(given, quarantine=[("a", book_.name)]))
    used = Ledger()
    used.walk(history, {"a": long_corpus}, tokenizer, 0, 1_500, StreamPositions())
    assert used.used
    assert not {unit for _, _, unit, _ in used.used} & set(units)


def test_parts_never_form_a_false_pair(long_corpus: Corpus, corpora: Corpora) -> None:
    tokenizer = corpora.tokenizer()
    given = settings(
        tokenizer, {"a": long_corpus}, {"a": 1}, block_bytes=100_000, objectives={"nsp": {"true_rate": 0.0}}
    )
    history = start(given)
    opener = Opener(PlanSegments(history), {"a": long_corpus}, tokenizer)
    block = opener.open("a", 0, [(0, 0)])
    table, origin = block.built.rows.table, block.documents.tokens.origin
    pairs = [table.spans_of(number) for number in range(len(table.row))]
    false = [(a[0], b[0]) for a, b in (pair for pair in pairs if len(pair) == 2)]
    assert len(false) > 20
    assert all(origin[a] != origin[b] for a, b in false)
    assert np.bincount(origin).max() > 1


def test_a_long_document_is_held_out_as_a_whole(long_corpus: Corpus) -> None:
    for seed in range(30):
        held = held_out_units(seed, "a", long_corpus.table, [len(long_corpus)], 0.4)
        first = long_corpus.table.first_parts(np.arange(len(long_corpus)))
        assert np.array_equal(np.flatnonzero(np.isin(first, first[held])), held)


@pytest.mark.parametrize(
    "name, content", [("a.txt.gz", b"x" * 9_000), ("a.jsonl", b'{"text": "' + b"x" * 90_000 + b'"}')]
)
def test_a_disk_that_refuses_a_long_text_ends_the_pack(tmp_path: Path, name: str, content: bytes) -> None:
    """It would be lost as one that cannot be read."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(BadInput, match=r"nowhere/.*: cannot be written: No such file"):
        list(read_files([str(path)], "text", Limits(5_000, tmp_path / "nowhere")))


HUGE = """
import json, sys, re
from pathlib import Path
from data.prepare.pack import pack
from data.plan.held_out import held_out_units
from data.prepare.build_index import build_index
folder, what = Path(sys.argv[1]), sys.argv[2]
before = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
if what == "index":
    build_index([str(folder / "jsonl-*.tar")], folder / "foreign.index", memory_mib=64)
else:
    pack([folder / f"in.{what}"], folder / what.partition(".")[0], memory_mib=64)
print((int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) - before) >> 10)
"""


@pytest.mark.full
def test_memory_does_not_grow_with_the_length_of_a_document(tmp_path: Path) -> None:
    """A text of 400 MB beside short ones, as a JSON line, packed and plain, and in a tar."""
    text = ("".join(f"line {number} of a long book \\u00e9\n" for number in range(1_000))).encode()
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(b'{"text": "short"}\n{"id": 1, "text": "')
        for _ in range(14_000):
            file.write(text.replace(b"\n", b"\\n"))
        file.write(b'"}\n{"text": "short too"}\n')
    with (tmp_path / "in.txt").open("wb") as file:
        file.writelines([text] * 14_000)
    subprocess.run(["gzip", "-1k", tmp_path / "in.txt"], check=True)
    grown = {}
    for what in ("jsonl", "index", "txt", "txt.gz"):
        for old in tmp_path.glob("txt*.tar"):
            old.unlink()
        (tmp_path / "txt.index").unlink(missing_ok=True)
        command = [sys.executable, "-c", HUGE, tmp_path, what]
        grown[what] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("MiB grown with --memory-mib 64:", grown)
    assert max(grown.values()) < 64 + 100


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_long_line_says_what_json_loads_says(tmp_path: Path, end: str) -> None:
    """Lines that go by way of the disk, whole and broken, beside a short one."""
    long = "häuser \\u00e9 \\ud83d\\ude00 \\\\ \\n " * 20_000
    dumped, marks = "\\\\ud83d" * 50_000, "\\ufeff" * 30_000
    lines = [
        f'{{"html": "{long}", "text": "short"}}',
        f'{{"text": "{long}"}}',
        f'{{"text": "first {long}", "id": 1e5, "text": "{long} last"}}',
        f'{{"text": ["{long}"]}}',
        f'{{"text": "{long}", "x": NaN, "y": {{"z": [1, null, "{long}"]}}}}',
        f'{{"text": "{long}\\ud800"}}',
        f'{{"text": "{long}", "html": "{long}\\x"}}',
        f'{{"text": "{long}\t"}}',
        f'{{"text": "{long}"}} {{}}',
        f'["{long}"]',
        f'{{"text": "{dumped}"}}',
        f'{{"text": "half \\ud800 {long}", "text": "fine"}}',
        f'{{"text": "{marks}"}}',
        " " * 200_000,
        f'{{"text": "{long}',
        '{"text": "after"}',
    ]
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode() + end.encode())
    (tmp_path / "scratch").mkdir()
    given = [str(tmp_path / "in.jsonl")]
    by_way = list(read_files(given, "text", Limits(100_000, tmp_path / "scratch")))
    held = list(read_files(given, "text", Limits(1 << 30, tmp_path)))
    assert [(one.line, one.problem) for one in by_way] == [(one.line, one.problem) for one in held]
    for one, other in zip(by_way, held):
        text = one.text.taken().decode() if isinstance(one.text, LongText) else one.text
        assert text == other.text
    assert sum(isinstance(one.text, str) for one in held) == 7
    assert not list((tmp_path / "scratch").iterdir())
    report = pack(given, tmp_path / "c")
    assert report.balance.used == 7
