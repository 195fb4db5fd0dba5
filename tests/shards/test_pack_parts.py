"""Parts of a pack, and the index that joins them: the documents of the whole, none lost and none twice."""

import functools
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data.errors import BadInput
from data.prepare.build_index import build_index
from data.prepare.merge_indexes import merge_indexes
from data.prepare.pack import pack
from data.prepare.verify import verify
from data.shards.corpus import open_corpus
from data.shards.find import find_documents
from data.shards.index import Index
from data.shards.samples import Reading
from data.sources.pieces import PackShare, share_of
from tests.shards.test_pack_speed import inputs, small_pieces
from tests.support.sources import ROOT

__all__ = ["inputs", "small_pieces"]


def texts_in(index: Path) -> dict[str, str]:
    """The texts of a pack by their keys, in order."""
    opened = Index.open(index)
    corpus = open_corpus("c", [str(index.parent / name) for name in opened.shards], index)
    whole: dict[str, str] = {}
    for sample in (sample for unit in range(len(corpus)) for sample in corpus.read_unit(unit)):
        assert bool(sample.part) == (sample.key in whole), sample.key
        whole[sample.key] = whole.get(sample.key, "") + (sample.text or "")
    return whole


@pytest.mark.parametrize("parts", [2, 3, 7, 40])
def test_parts_are_the_whole(inputs: Path, tmp_path: Path, small_pieces: None, parts: int) -> None:
    whole = pack([inputs], tmp_path / "whole" / "c", shard_bytes=400_000)
    names: list[str] = []
    used, left = 0, Counter[str]()
    for number in range(1, parts + 1):
        share = PackShare(number, parts)
        report = pack([inputs], tmp_path / "c", share=share, workers=number % 3, shard_bytes=400_000)
        used += report.balance.used
        left += report.balance.left_out
        names += [path.name for path in report.shards]
    assert (used, left) == (whole.balance.used, whole.balance.left_out)
    merged = merge_indexes([str(tmp_path / f"c-*of{parts}.index")], tmp_path / "c.index")
    found = texts_in(tmp_path / "c.index")
    assert list(found.values()) == list(texts_in(whole.index).values())
    assert len(found) == used  # no key stands twice
    assert list(merged.shards) == names
    assert len({*names}) == len(names)
    assert not verify(tmp_path / "c.index").findings
    again = build_index([str(tmp_path / "c-*.tar")], tmp_path / "again.index").index
    assert (again.fingerprint, again.table.checksum()) == (merged.fingerprint, merged.table.checksum())
    assert again.balance == merged.balance


def test_a_job_array_and_the_command_that_joins_it(inputs: Path, tmp_path: Path) -> None:
    """slurm/pack.sbatch as Slurm starts it, the tasks in another order."""
    script = [ROOT / "slurm" / "pack.sbatch", "3", inputs / "a.jsonl", inputs / "h.txt"]
    script += ["--out", tmp_path / "c"]
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "2"}
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    for number in (3, 1, 2):
        done = run(["bash", *script], env={**environment, "SLURM_ARRAY_TASK_ID": str(number)})
        assert (done.returncode, done.stderr) == (0, "")
    merge = ["headrace", "data", "index", "--merge", f"{tmp_path}/c-*of3.index"]
    done = run([*merge, "--out", f"{tmp_path}/c.index"], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*texts_in(tmp_path / "c.index").values()][-1] == "a text\r\n"
    assert open_corpus("c", [str(tmp_path / "c-*.tar")]).index.path.name == "c.index"
    again = run(["bash", *script], env={**environment, "SLURM_ARRAY_TASK_ID": "4"})
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    alone = run(["bash", *script], env=environment)  # not as a task of an array
    assert (alone.returncode, alone.stderr[:7], alone.stderr.count("\n")) == (2, "usage: ", 1)


def test_a_key_of_a_part_is_found_without_reading_all(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "{"word " * 3_000}{number}"}}\n' for number in range(60))
    (tmp_path / "a.txt").write_text("first")
    for name in "bc":
        (tmp_path / f"{name}.jsonl").write_text(lines)
    for number in (1, 2):
        pack([tmp_path], tmp_path / "out" / "c", share=PackShare(number, 2), meta=False)
    merge_indexes([str(tmp_path / "out" / "c-*.index")], tmp_path / "out" / "c.index")
    corpus = open_corpus("c", [str(tmp_path / "out" / "c-*.tar")])
    read: list[int] = []
    look, corpus.read_unit = corpus.read_unit, lambda unit: read.append(unit) or look(unit)  # type: ignore
    found = find_documents(corpus, ["2-000000037"])["2-000000037"]
    assert [(one.shard, one.key) for one in found] == [("c-2of2-000000.tar", "2-000000037")]
    # the ends of both shards, and the one unit where it lies
    assert len(read) <= 5 < len(corpus)
    assert find_documents(corpus, ["000000037"])["000000037"] == []


def test_a_part_without_a_share_is_an_index_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    for number in (1, 2):
        report = pack([tmp_path / "a.txt"], tmp_path / "c", share=PackShare(number, 2))
        assert (report.samples, len(Index.open(report.index))) == (2 - number, 2 - number)
    assert merge_indexes([str(tmp_path / "c-*.index")], tmp_path / "c.index").samples == 1
    with pytest.raises(BadInput, match=r"c-1of2-000000\.tar: exists already"):
        pack([tmp_path / "a.txt"], tmp_path / "c", share=PackShare(1, 2))


def test_merging_refuses_every_doubt(tmp_path: Path, inputs: Path) -> None:
    source = inputs / "d.jsonl.zst"
    for number in (1, 2, 3):
        pack([inputs / "h.txt", inputs / "c.jsonl.gz", source], tmp_path / "c", share=PackShare(number, 3))
    pack([source], tmp_path / "c", share=PackShare(1, 2))
    pack([source], tmp_path / "d")
    shutil.copy(tmp_path / "d-000000.tar", tmp_path / "e.tar")
    build_index([str(tmp_path / "e.tar")], tmp_path / "e.index")
    pack([inputs / "h.txt"], tmp_path / "k")
    build_index([str(tmp_path / "k-000000.tar"), str(tmp_path / "e.tar")], tmp_path / "k.index")
    build_index([str(tmp_path / "e.tar")], tmp_path / "f.index", reading=Reading(text_member="txt"))
    (tmp_path / "g.index").write_bytes((tmp_path / "d.index").read_bytes()[:-1] + b"x")
    (tmp_path / "g").mkdir()
    for given, what in {
        "c-1of3 c-3of3": "c: of 3 parts 1 are missing: 2; pack them first (--part 2/3), or name",
        "c-1of3 c-2of3 c-2of3 c-3of3": "c-2of3.index: part 2 of 3 is given twice",
        "c-1of2 c-1of3": "c-1of3.index: is not one of the 2 parts of c",
        "c-?of3 d": "d.index: is not one of the 3 parts of c",
        "d d": "d-000000.tar: is given twice",
        "d e": "e.tar: holds the same documents as d-000000.tar",
        "d k": "e.tar: holds the same documents as d-000000.tar",
        "e f": "f.index: was made for text_member 'txt', ",
        "d g": "g.index: its table is damaged",
        "nothing": "nothing.index: no such file",
    }.items():
        names = [tmp_path / f"{name}.index" for name in given.split()]
        with pytest.raises(BadInput) as caught:
            merge_indexes(names, tmp_path / "out.index")
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out.index").exists()
    for out, what in {
        "d.index": "is one of those that are merged",
        "e.tar": "is no index that can be re",
    }.items():
        with pytest.raises(BadInput, match=what):
            merge_indexes([tmp_path / "d.index"], tmp_path / out)
    for number in (1, 2):  # of a folder in which a file came meanwhile
        pack([inputs], tmp_path / "h", share=PackShare(number, 2))
        (inputs / f"zz{number}.txt").write_text(f"text {number}")
    with pytest.raises(BadInput, match=r"h-2of2\.index: is a part of other inputs than .*h-1of2\.index"):
        merge_indexes([tmp_path / f"h-{number}of2.index" for number in (1, 2)], tmp_path / "h.index")
    three = [tmp_path / f"c-{number}of3.index" for number in (3, 1, 2)]
    merged = merge_indexes(three, tmp_path / "elsewhere" / "c.index")
    assert not verify(merged.path).findings
    last = Path(merged.shards[-1])
    last.write_bytes(b"")
    with pytest.raises(BadInput, match=rf"{last.name}: has 0 bytes and had \d+ when"):
        merge_indexes(three, tmp_path / "c.index")


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "1/", "-1/2", "1/2/3", "1/0", "²/3"])
def test_a_part_is_a_number_of_a_number(text: str) -> None:
    with pytest.raises(BadInput, match=r"--part .*: expected i/n"):
        share_of(text)
