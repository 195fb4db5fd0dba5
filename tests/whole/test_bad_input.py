"""Bad input through the real command line: one clear line, exit code 2, nothing lost.

What each part refuses in detail stands in its own tests; here it is what a user sees. `one` is a finished run
of three steps with a checkpoint each; tests that damage something work on a copy.
"""

import ast
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data.shards.index import Index, Shard, write
from data.tokenization.tokenizer import Tokenizer
from data.tokenization.train import train as train_tokenizer
from launcher.checkpoint.format import sealed
from launcher.config.credentials import refuse_secret
from launcher.runs.run_folder import claim, open_run
from tests.support.commands import Commands
from tests.support.helpers import Corpora, make_corpus
from tests.support.sources import source_files

CONFIG = """\
run: {{name: one, folder: "{folder}"}}
steps: 3
sequence_length: 64
batch_rows: 4
tokenizer: {{model: "{model}"}}
data:
  corpora:
    a: {{shards: "{shards}", index: "{index}"}}
  block_bytes: 4096
  threads: 0
objectives: {{causal: {{weight: 1}}, mlm: {{weight: 1}}}}
model: {{layers: 1, width: 16, heads: 2}}
optimizer: {{lr: 1.0e-3, schedule: constant, warmup: 1}}
layout: {{zero: 0, micro_batch: 4}}
checkpoint: {{every: 1, keep: 3}}
wandb: {{mode: disabled}}
"""
TEXTS = [f"document {number}: " + "it was a dark and stormy night. " * 20 for number in range(300)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, corpora: Corpora) -> Path:
    """A folder with a corpus `a`, a tokenizer and c.yaml."""
    folder = tmp_path_factory.mktemp("home")
    make_corpus(folder, "a", TEXTS)
    shutil.copy(corpora.tokenizer_path, folder / "tokenizer.model")
    configure(folder)
    return folder


@pytest.fixture(scope="module")
def one(headrace: Commands, home: Path) -> Path:
    headrace.ok("train", "c.yaml", cwd=home)
    return home / "one"


@pytest.fixture
def work(home: Path, tmp_path: Path) -> Path:
    """A copy of `home` without its run, to damage."""
    for entry in home.glob("*.*"):
        shutil.copy2(entry, tmp_path)
    configure(tmp_path)
    return tmp_path


@pytest.fixture
def run(one: Path, tmp_path: Path) -> Path:
    """A copy of the run, to damage."""
    return Path(shutil.copytree(one, tmp_path / "run"))


def configure(folder: Path, shards: str = "a-*.tar", index: str = "a.index") -> Path:
    file = folder / "c.yaml"
    paths = {"shards": folder / shards, "index": folder / index, "model": folder / "tokenizer.model"}
    file.write_text(CONFIG.format(folder=folder, **paths))
    return file


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def shard(work: Path) -> Path:
    return work / "a-000000.tar"


def tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def plain(count: int = 40) -> list[tuple[str, bytes]]:
    return [(f"{number:04d}.txt", text.encode()) for number, text in enumerate(TEXTS[:count])]


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Shards and indexes


def test_a_missing_shard(headrace: Commands, work: Path) -> None:
    shard(work).unlink()
    for command in (["check", "c.yaml"], ["train", "c.yaml"], ["data", "show", "c.yaml", "--step", "1"]):
        line = headrace.refused(*command, cwd=work)
        assert f"data.corpora.a: {work}/a-*.tar: no such shard (its index: {work}/a.index)" in line
    line = headrace.refused("tokenizer", "train", f"{work}/a.index", "--out", "t.model", cwd=work)
    assert f"corpus a: {shard(work)}: no such shard (its index: {work}/a.index)" in line
    done = headrace.run("data", "verify", "a.index", cwd=work)
    assert (done.code, done.err) == (2, "")
    assert "a-000000.tar" in done.out
    assert "No such file" in done.out


def test_a_folder_in_place_of_shards(headrace: Commands, work: Path) -> None:
    line = headrace.refused("check", "c.yaml", f"data.corpora.a.shards={work}", cwd=work)
    assert f"{work}: is a folder; name the shards in it: '{work}/*.tar'" in line


@pytest.mark.parametrize("length", [0, 30_000])
def test_a_truncated_and_an_empty_shard(headrace: Commands, work: Path, length: int) -> None:
    was = shard(work).stat().st_size
    os.truncate(shard(work), length)
    line = headrace.refused("train", "c.yaml", cwd=work)
    assert f"data.corpora.a: {shard(work)}: has {length} bytes and had {was} when it was indexed" in line
    assert "headrace data index" in line
    assert headrace.run("data", "verify", "a.index", cwd=work).code == 2
    line = headrace.refused("data", "index", "a-000000.tar", "--out", "new.index", cwd=work)
    assert ("is empty (0 bytes)" if length == 0 else "cut off at byte 30000") in line
    assert not (work / "new.index").exists()


def test_a_truncated_gzip_shard(headrace: Commands, work: Path) -> None:
    packed = gzip.compress(shard(work).read_bytes())
    (work / "z.tar.gz").write_bytes(packed[: len(packed) // 2])
    assert "inside its gzip data" in headrace.refused(
        "data", "index", "z.tar.gz", "--out", "z.index", cwd=work
    )


def test_an_index_that_is_older_than_its_shard(headrace: Commands, work: Path) -> None:
    with shard(work).open("ab") as file:
        file.write(bytes(10_240))
    assert f"{work}/a.index: is older than {shard(work)}" in headrace.refused("train", "c.yaml", cwd=work)
    os.truncate(shard(work), shard(work).stat().st_size - 10_240)
    flip(shard(work), 600)  # the same size, other content
    line = headrace.refused("train", "c.yaml", cwd=work)
    assert "whose content changed; make it again: headrace data index" in line


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, "is not an index of headrace"),
        (9, "is an index of version"),
        (13, "its header is damaged"),
        (-1, "its table is damaged; make it again"),
    ],
)
def test_a_damaged_index(headrace: Commands, work: Path, at: int, expected: str) -> None:
    flip(work / "a.index", at)
    assert f"a.index: {expected}" in headrace.refused("check", "c.yaml", cwd=work)


def test_a_damaged_shard_is_named_by_verify_and_by_training(headrace: Commands, work: Path) -> None:
    index = Index.open(work / "a.index")
    status = shard(work).stat()
    for unit in range(len(index)):
        flip(shard(work), index.unit(unit).offset + 600)
    os.utime(shard(work), ns=(status.st_mtime_ns, status.st_mtime_ns))  # as a failing disk does it
    done = headrace.run("data", "verify", "a.index", "--json", cwd=work)
    assert done.code == 2
    assert {finding["unit"] for finding in json.loads(done.out)} == set(range(len(index)))
    line = headrace.refused("train", "c.yaml", cwd=work)
    assert f"corpus a: {shard(work)}, unit " in line
    assert "its bytes are not those that were indexed (checksum)" in line


def test_samples_that_are_no_text(headrace: Commands, work: Path) -> None:
    tar(work / "b-0.tar", [*plain()[:20], ("bad.txt", b"\xff\xfe"), ("image.jpg", b"x"), *plain()[20:]])
    out = headrace.ok("data", "index", "b-0.tar", "--out", "b.index", cwd=work)
    assert "42 members there: 40 read as text + 2 left out" in out
    assert "  1 × not UTF-8: b-0.tar/bad.txt" in out
    assert "  1 × not text: .jpg: b-0.tar/image.jpg" in out
    assert "not UTF-8" in headrace.ok("data", "verify", "b.index", cwd=work)
    configure(work, "b-0.tar", "b.index")
    line = headrace.refused("train", "c.yaml", cwd=work)
    assert f"corpus a: {work}/b-0.tar, unit 0, sample bad: not UTF-8; quarantine it (data.cor" in line
    headrace.ok("resume", "one", "data.on_bad.action=skip", cwd=work)
    ledger = [line for line in open_run(work / "one").ledger() if line["event"] == "skip"]
    assert [line["key"] for line in ledger] == ["b-0.tar/bad", "b-0.tar/image"]
    names = {"corpus", "place", "unit", "key", "problem", "row"}
    for line in ledger:
        assert line.keys() - {"event", "time", "attempt"} == names, "names that stay"


def test_a_corpus_without_any_text(headrace: Commands, work: Path) -> None:
    tar(work / "b-0.tar", [(f"{number}.jpg", b"x") for number in range(5)])
    headrace.ok("data", "index", "b-0.tar", "--out", "b.index", cwd=work)
    configure(work, "b-0.tar", "b.index")
    assert "corpus a: no text in its 1 shards" in headrace.refused("train", "c.yaml", cwd=work)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_member_names_of_300_characters_work(headrace: Commands, work: Path, form: int) -> None:
    long = "k" * 296
    tar(work / "b-0.tar", [*plain(), (f"{long}.txt", TEXTS[0].encode())], form)
    assert "41 documents" in headrace.ok("data", "index", "b-0.tar", "--out", "b.index", cwd=work)
    assert "41 documents" in headrace.ok("data", "verify", "b.index", cwd=work)
    configure(work, "b-0.tar", "b.index")
    shown = headrace.ok("data", "show", "c.yaml", "batch_rows=300", "--step", "1", "--json", cwd=work)
    pieces = [piece for line in shown.splitlines() for piece in json.loads(line)["pieces"]]
    assert long in {piece["key"] for piece in pieces}


def test_members_are_never_written_by_their_names(headrace: Commands, work: Path) -> None:
    evil = work / "evil.txt"
    tar(work / "b-0.tar", [*plain(), (str(evil), TEXTS[0].encode()), ("../evil.txt", TEXTS[1].encode())])
    headrace.ok("data", "index", "b-0.tar", "--out", "b.index", cwd=work)
    configure(work, "b-0.tar", "b.index")
    headrace.ok("data", "show", "c.yaml", "--step", "3", cwd=work)
    assert not evil.exists()
    assert not (work.parent / "evil.txt").exists()


def test_no_command_is_taken_from_an_index(headrace: Commands, work: Path) -> None:
    index = Index.open(work / "a.index")
    command = f"pipe:touch {work}/pwned; cat {shard(work)}; : file://x"
    write(work / "evil.index", [Shard(command, 0, 0, "plain")], index.table)
    for arguments in (
        ["data", "verify", "evil.index"],
        ["tokenizer", "train", "evil.index", "--out", "t.model"],
        ["tokenizer", "check", "tokenizer.model", "evil.index"],
    ):
        assert "evil.index: does not keep the command" in headrace.refused(*arguments, cwd=work)
    assert not (work / "pwned").exists()


def test_text_that_spells_control_tokens_yields_none(headrace: Commands, work: Path) -> None:
    tokenizer = Tokenizer.load(work / "tokenizer.model")
    ordinary = {*tokenizer.ordinary.tolist(), *np.flatnonzero(tokenizer.is_byte).tolist()}
    control = [number for number in range(tokenizer.size) if number not in ordinary]
    spelled = " ".join(map(tokenizer.piece, control)) + "".join(map(tokenizer.piece, control))
    tar(work / "b-0.tar", [(f"{number}.txt", spelled.encode()) for number in range(5)])
    headrace.ok("data", "index", "b-0.tar", "--out", "b.index", cwd=work)
    checked = json.loads(headrace.ok("tokenizer", "check", "tokenizer.model", "b.index", "--json", cwd=work))
    assert (checked[0]["not_lossless"], checked[0]["documents"]) == (0, 5)
    configure(work, "b-0.tar", "b.index")
    shown = headrace.ok("data", "show", "c.yaml", "objectives.mlm=null", "--step", "1", "--json", cwd=work)
    begin, end = tokenizer.control.begin, tokenizer.control.end
    for row in map(json.loads, shown.splitlines()):
        for piece in row["pieces"]:
            first, stop = piece["first"], piece["first"] + piece["length"]
            assert set(row["tokens"][first:stop]) <= ordinary | {begin}
            assert set(row["targets"][first:stop]) <= ordinary | {end}


# Configs and options


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CONFIG.replace("steps: 3", "stpes: 3"), "c.yaml:2: stpes: unknown key; did you mean steps?"),
        (CONFIG.replace("steps: 3", "steps: three"), "c.yaml:2: steps: expected a whole number, got 'three'"),
        (CONFIG.replace("steps: 3", "steps: 3\nsteps: 4"), "c.yaml:3: steps: stands twice, first in line 2"),
        (CONFIG.replace("steps: 3", "steps:\n\t3"), "c.yaml:3: not YAML: found character '\\t'"),
        (CONFIG.replace("heads: 2", "heads: 3"), "model.heads: width 16 is not a multiple of 3 heads"),
        ("", "c.yaml: is empty; expected sections"),
        ("\x00\x01", "c.yaml: not YAML"),
    ],
)
def test_a_config_with_a_mistake(headrace: Commands, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "c.yaml").write_text(content.replace("{{", "{").replace("}}", "}"))
    assert expected in headrace.refused("train", "c.yaml", cwd=tmp_path)
    assert names(tmp_path) == {"c.yaml"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["train", "."], ".: cannot be read: Is a directory"),
        (["train", "a-000000.tar"], "a-000000.tar: not YAML"),
        (["train", "c.yaml", "steps=-3"], "steps: expected at least 1, got -3"),
        (["train", "c.yaml", "steps=99999999999999"], "steps: expected at most"),
        (["train", "c.yaml", "batch_rows=0"], "batch_rows: expected a whole number from 1"),
        (["train", "c.yaml", "batch_rows=1000000000000"], "batch_rows: expected a whole number from 1"),
        (["train", "c.yaml", "sequence_length=7"], "sequence_length: expected at least 8, got 7"),
        (["train", "c.yaml", "objectives.casual={weight: 1}"], "no such objective; did you mean causal?"),
        (
            ["train", "c.yaml", "objectives.causal.weight=0", "objectives.mlm.weight=0"],
            "objectives: all weights are 0 at row 0; one must be above 0",
        ),
        (["train", "c.yaml", "data.corpora.a.weight=0"], "expected a corpus with a weight above 0"),
        (
            ["train", "c.yaml", "data.corpora.b={shards: a-*.tar, weight: 1e-9}"],
            "data.corpora.b.weight: expected 0, or at least a millionth",
        ),
        (["train", "c.yaml", "data.threads=100000"], "data.threads: expected at most 256"),
        (["train", "c.yaml", "--processes", "0"], "--processes: expected 1 or more, got 0"),
        (["train", "c.yaml", "eval.every=1"], "eval.every: needs held-out text"),
        (["train", "c.yaml", "tokenizer.model=none"], "tokenizer.model: no file"),
        (["train", "c.yaml", "tokenizer.model=c.yaml"], "c.yaml: is not a SentencePiece model"),
        (["train", "c.yaml", "run.folder=c.yaml"], "c.yaml/one: cannot be written: Not a directory"),
        (["check", "c.yaml", "run.folder=c.yaml"], "run.folder: "),
        (["check", "c.yaml", "run.folder=" + "a" * 300], "cannot be read: File name too long"),
        (["train", "c.yaml", "run.folder=" + "a" * 300], "cannot be read: File name too long"),
        (["check", "c.yaml", 'run.folder="a\\0b"'], "expected a path without a zero character"),
        (["train", "c.yaml", "run.name=" + "a" * 101], "run.name: expected at most 100 characters, got 101"),
        (["train", "c.yaml", "tokenizer.model=" + "a" * 300], "tokenizer.model: no file"),
        (
            ["train", "c.yaml", "data.corpora.a.text_field=body"],
            "asks for 'body'; make it again: headrace data index",
        ),
        (
            ["train", "c.yaml", "data.corpora.a.quarantine=[nobody, '000000001']"],
            "data.corpora.a.quarantine: none of the 300 documents of corpus a has the key 'nobody'; 'head",
        ),
        (["check", "c.yaml", "data.corpora.a.quarantine=[x, y]"], "has the key 'x' (and 1 more)"),
        (
            ["train", "c.yaml", "data.corpora.aa.quarantine=['000000001']"],
            "data.corpora.aa.shards: is missing; did you mean data.corpora.a?",
        ),
        (["data", "show", "c.yaml", "--step", "4"], "--step: the config has 3 steps, got 4"),
        (["data", "show", "c.yaml", "--step", "1", "--row", "9"], "step 1 has the rows 0 to 3, got 9"),
        (["data", "pack", "--out", "p"], "expected files or folders to pack"),
        (["data", "pack", "none", "--out", "p"], "none: no such file or folder"),
        (["data", "pack", "tokenizer.model", "--out", "p"], "expected one of .txt .md .py"),
        (["data", "pack", "x.jsonl", "--out", "p"], "no document to pack: 1 × no text in field 'text'"),
        (
            ["data", "pack", "x.jsonl", "--field", "body", "--out", "a"],
            "exists already; choose another --out",
        ),
        (
            ["data", "pack", "x.jsonl", "--out", "sub/"],
            "expected the beginning of file names, such as sub/mine",
        ),
        (["data", "pack", "x.jsonl", "--field", "body", "--out", "c.yaml/p"], "cannot be written"),
        (["data", "index", "http://[::1/x.tar", "--out", "p.index"], "http://…: is not a URL"),
        (["data", "index", "c.yaml", "--out", "p.index"], "c.yaml: no tar header at byte 0"),
        (["data", "index", "a-000000.tar", "--out", "c.yaml"], "exists and is no index that can be added to"),
        (["data", "index", "a-000000.tar", "--out", "c.yaml/p.index"], "cannot be written: c.yaml is a file"),
        (["tokenizer", "train", "a.index", "--out", "t", "-v", "90"], "control and 256 byte ids need"),
        (["tokenizer", "train", "a.index", "--out", "t", "-v", "9000"], "--vocabulary 9000: this text has"),
        (["tokenizer", "train", "a.index", "--out", "tokenizer.model"], "exists already"),
        (["tokenizer", "train", "a.index", "--out", "c.yaml/t"], "cannot be written: c.yaml is a file"),
        (["tokenizer", "check", "c.yaml", "a.index"], "c.yaml: is not a SentencePiece model"),
    ],
)
def test_a_wrong_argument(headrace: Commands, home: Path, arguments: list[str], expected: str) -> None:
    (home / "x.jsonl").write_text('{"body": "text"}\n')
    before = names(home)
    line = headrace.refused(*arguments, cwd=home)
    assert expected in line
    assert names(home) == before


def test_the_shortest_rows_and_fewer_rows_than_processes(headrace: Commands, work: Path) -> None:
    every = [f"objectives.{name}.weight=1" for name in ("reverse", "nsp", "prefix", "span", "fim")]
    headrace.ok("train", "c.yaml", "sequence_length=8", *every, cwd=work)
    two = ("--processes", "2", "--dry-run")
    out = headrace.ok("train", "c.yaml", "batch_rows=1", "run.name=two", *two, cwd=work)
    assert "warning: 7 blank rows a step" in out


def test_a_start_that_failed_does_not_forbid_the_corrected_one(headrace: Commands, work: Path) -> None:
    assert "no such shard" in headrace.refused("train", "c.yaml", "data.corpora.a.shards=none.tar", cwd=work)
    headrace.ok("train", "c.yaml", cwd=work)
    assert "this run exists with another config" in headrace.refused("train", "c.yaml", "steps=9", cwd=work)


def test_another_config_for_a_run_that_exists(headrace: Commands, one: Path, home: Path) -> None:
    """`check` and a dry run refuse what `train` refuses, and go on with what it goes on with."""
    path = str(home / ("elsewhere" * 20))
    edits = ["steps=9", "seed=2", "optimizer.lr=1e-2", "model.width=32", f"data.corpora.a.shards={path}"]
    before = names(one)
    for command in (["train"], ["train", "--dry-run"], ["train", "--processes", "2"]):
        line = headrace.refused(*command, "c.yaml", *edits, cwd=home)
        assert line == (
            f"headrace: {one}: this run exists with another config (seed: 1, now 2; steps: 3, now 9; "
            f"{line.split('; ')[2]}; and 2 more). Begin a new run with run.name=one-2, or edit this one: "
            f"headrace resume {one} key=value"
        )
        assert line.split("; ")[2].startswith("data.corpora.a.shards: [")
        assert len(line.split("; ")[2]) == 80
    assert "steps: 3, now 9" in headrace.refused("check", "c.yaml", "steps=9", cwd=home)
    assert names(one) == before
    assert f"{one} (is complete, 3 steps: nothing" in headrace.ok("check", "c.yaml", cwd=home)
    assert "exists" not in headrace.ok("check", "c.yaml", "steps=9", "run.name=mine", cwd=home)
    assert "is complete" in headrace.ok("train", "c.yaml", cwd=home)


def test_edits_of_a_resume_are_what_a_check_reckons_with(headrace: Commands, run: Path, home: Path) -> None:
    headrace.ok("resume", run, "steps=4")
    (run / "config.yaml").write_text(
        (run / "config.yaml")
        .read_text()
        .replace("name: one", "name: run")
        .replace(str(home), str(run.parent))
    )
    facts = json.loads(headrace.ok("check", run / "config.yaml", "--json"))
    assert (facts["run"]["exists"], facts["whole"]["steps"]) == (True, 4)


def test_paths_with_blanks_and_any_letters(headrace: Commands, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen 日本 [1] {a}"
    folder.mkdir()
    for entry in home.glob("*.*"):
        shutil.copy2(entry, folder)
    configure(folder, "a-000000.tar")
    out = headrace.ok("train", "c.yaml", cwd=folder)
    assert f"headrace resume '{folder}/one'" in out
    headrace.ok("data", "trace", folder / "one", "--step", "3", "--row", "0", cwd=folder)
    assert "'日本" not in headrace.ok("generate", folder / "one", "日本", "--tokens", "3", cwd=folder)


def test_a_terminal_that_knows_ascii_alone(home: Path, one: Path) -> None:
    """A process of its own: the encoding is fixed at its start."""
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "check", str(home / "c.yaml")],
        env=os.environ | ascii_alone,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Runs


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "X"],
        ["metrics", "X"],
        ["resume", "X", "steps=9"],
        ["evaluate", "X"],
        ["generate", "X", "a"],
        ["wandb", "X"],
        ["checkpoint", "ls", "X"],
        ["checkpoint", "verify", "X"],
        ["checkpoint", "average", "X", "1", "2", "--out", "mean"],
        ["data", "trace", "X", "--step", "1"],
        ["data", "seen", "X", "1"],
    ],
)
def test_what_is_no_run(headrace: Commands, home: Path, arguments: list[str]) -> None:
    for place in (str(home), str(home / "c.yaml")):
        line = headrace.refused(*[place if word == "X" else word for word in arguments])
        if arguments[:2] == ["data", "trace"] and place.endswith("c.yaml"):
            assert f"{place}: is a file, expected the folder of a run; what a config would train on: " in line
            assert line.endswith(f": headrace data show {place} --step 1")
        else:
            assert f"{place}: expected the folder of a run, with a config.yaml in it" in line
    line = headrace.refused(*["runs/none" if word == "X" else word for word in arguments], cwd=home)
    assert "runs/none: no such folder; expected that of a run" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["resume", "one", "--step", "9"], "no checkpoint of step 9; there are: 1, 2, 3"),
        (["generate", "one", "a", "--step", "9"], "no checkpoint of step 9"),
        (["evaluate", "one", "--step", "9"], "no checkpoint of step 9"),
        (["checkpoint", "verify", "one", "--step", "9"], "no checkpoint of step 9; there are: 1, 2, 3"),
        (["evaluate", "one"], "no corpus of this run holds text out"),
        (["generate", "one", "word " * 200], "this model reads at most 64"),
        (["generate", "one", "a", "--suffix", "b"], "--suffix: belongs to --order infill"),
        (["generate", "one", "a", "-t", "inf"], "temperature: expected 0, or a number from 1e-06"),
        (["generate", "one", "a", "--seed", "9" * 30], "seed: expected a whole number of 64 bits"),
        (["generate", "one", os.fsdecode(b"\xff")], "PROMPT: expected text in UTF-8"),
        (["status", "a" * 300], ": cannot be read: File name too long"),
        (["data", "trace", "one", "--step", "9"], "has not done step 9; its newest is 3"),
        (["data", "seen", "one", "a/1"], "a/1: no such sample in a; one that is: a/a-000000.tar/000000000"),
        (
            ["data", "show", "one", "--step", "2"],
            "one: is a run, expected a config; what the run trained on: headrace data trace one --step 2",
        ),
        (["resume", "one", "run.name=two", "steps=9"], "run: names the folder of a run and cannot be edited"),
        (["resume", "one", "steps=9", "data.corpora.a.quarantine=[nobody]"], "has the key 'nobody'; 'head"),
        (["resume", "one", "seed=2", "steps=9"], "seed: the run was started with 1, got 2"),
        (["resume", "one", "seed=2", "steps=9", "--step", "1"], "seed: the run was started with 1, got 2"),
        (
            ["resume", "one", "model.width=32", "steps=9"],
            "model.width: expected 16, which the weights were trained with, got 32",
        ),
        (
            ["resume", "one", "max_sequence_length=32", "steps=9"],
            "max_sequence_length: expected at least sequence_length (64), got 32",
        ),
        (["wandb", "one"], "wandb: no key; set WANDB_API_KEY"),
    ],
)
def test_what_a_run_cannot_do(
    headrace: Commands, one: Path, home: Path, arguments: list[str], expected: str
) -> None:
    before = {path: path.read_bytes() for path in (one / "checkpoints").rglob("*") if path.is_file()}
    line = headrace.refused(*arguments, cwd=home, HOME=str(home), WANDB_API_KEY="")
    assert expected in line
    assert {p: p.read_bytes() for p in (one / "checkpoints").rglob("*") if p.is_file()} == before
    assert open_run(one).attempts() == [1]


@pytest.mark.parametrize(
    ("order", "printed"),
    [
        (["forwards"], "it was{text}"),
        (["infill", "--suffix", " night"], "it was{text} night"),
        (["backwards"], "{text}it was"),
    ],
)
def test_generated_text_is_printed_where_it_belongs(
    headrace: Commands, one: Path, order: list[str], printed: str
) -> None:
    command = ["generate", one, "it was", "--order", *order, "--tokens", "5"]
    new = json.loads(headrace.ok(*command, "--json"))
    assert (new["prompt"], new["order"]) == ("it was", order[0])
    assert new["text"]
    assert headrace.ok(*command) == printed.format(text=new["text"]) + "\n"


def test_documents_to_leave_out_are_looked_for(headrace: Commands, run: Path, work: Path) -> None:
    out = "data.corpora.a.quarantine=['000000001']"
    done = headrace.run("resume", run, "steps=4", out)
    assert (done.code, done.err) == (0, "")
    plan = json.loads((run / "plan.jsonl").read_text().splitlines()[-1])["plan"]
    assert plan["quarantine"] == [["a", "000000001"]]
    assert headrace.ok("check", work / "c.yaml", out)
    # What cannot be read cannot be searched either: that alone is no reason not to start.
    index, status = Index.open(work / "a.index"), shard(work).stat()
    flip(shard(work), index.unit(len(index) - 1).offset + 600)
    os.utime(shard(work), ns=(status.st_mtime_ns, status.st_mtime_ns))
    done = headrace.run("check", work / "c.yaml", "data.corpora.a.quarantine=[nobody]")
    assert done.code == 0
    assert "warning: data.corpora.a.quarantine: whether these documents exist cannot be told: corpus a: " in (
        done.out
    )


def test_another_tokenizer(headrace: Commands, run: Path, home: Path, corpora: Corpora) -> None:
    other = run.parent / "other.model"
    train_tokenizer([corpora.open("prose")], other, vocabulary=800, budget=100_000)
    own, asked = Tokenizer.load(run / "tokenizer.model").hash, Tokenizer.load(other).hash
    line = headrace.refused("resume", run, f"tokenizer.model={other}", "steps=9")
    assert f"(hash {own[:16]}), {other} is another (hash {asked[:16]})" in line
    shutil.copy(other, run / "tokenizer.model")
    for arguments in (
        ["resume", run, "steps=9"],
        ["generate", run, "a"],
        ["evaluate", run],
        ["data", "trace", run, "--step", "1"],
    ):
        line = headrace.refused(*arguments)
        assert f"{run}/tokenizer.model: is not the tokenizer that the run was started with (hash" in line
        assert own[:16] in line
        assert asked[:16] in line


def starts(run: Path) -> list[list[object]]:
    """The commands that go on with a run of c.yaml, and those that only say what that would mean."""
    train = ["train", "c.yaml"]
    return [train, [*train, "--dry-run"], ["check", "c.yaml"], ["resume", run], ["resume", run, "--dry-run"]]


def test_a_prompt_that_leaves_no_room_for_a_text(headrace: Commands, work: Path) -> None:
    edits = "eval.every=1", "data.corpora.a.held_out=0.2", f"eval.samples.prompts=['{'never ' * 300}']"
    for command in (["train", "c.yaml"], ["train", "c.yaml", "--dry-run"], ["check", "c.yaml"]):
        line = headrace.refused(*command, *edits, cwd=work)
        assert "eval.samples.prompts: 'never never" in line
        assert "leaves no room in max_sequence_length" in line


@pytest.fixture
def unfinished(headrace: Commands, work: Path) -> Path:
    """A run of c.yaml with a step still to do."""
    headrace.ok("train", "c.yaml", cwd=work)
    shutil.rmtree(work / "one" / "checkpoints" / "step-00000003")
    return work / "one"


def test_a_second_writer(headrace: Commands, unfinished: Path, work: Path) -> None:
    folder = open_run(unfinished)
    with_lock = claim(folder, folder.current_config())
    try:
        before = names(work)
        for command in starts(unfinished):
            assert headrace.refused(*command, cwd=work) == (
                f"headrace: {unfinished}: is being written by attempt {with_lock.number}, process "
                f"{os.getpid()} on {socket.gethostname()}; stop that first, or wait for its end"
            )
        assert names(work) == before
    finally:
        with_lock.close()
    assert open_run(unfinished).writer() is None


def test_shards_of_a_run_that_were_replaced(headrace: Commands, unfinished: Path, work: Path) -> None:
    shard(work).unlink()
    (work / "a.index").unlink()
    make_corpus(work, "a", TEXTS[::-1])
    for command in starts(unfinished):
        line = headrace.refused(*command, cwd=work)
        assert re.fullmatch(
            r"headrace: corpus a: its shards changed, or some are missing or in another order \(fingerprint "
            r"(\w+), now (?!\1)\w+\); shards can only be appended, and an index made anew needs the "
            r"--unit-kib that it had",
            line,
        )


def test_what_a_run_has_is_what_a_check_reckons_with(
    headrace: Commands, unfinished: Path, work: Path, corpora: Corpora
) -> None:
    """Its own copy of the tokenizer, shards appended, a corpus that an edit takes away."""
    (work / "tokenizer.model").unlink()
    train_tokenizer([corpora.open("prose")], work / "tokenizer.model", vocabulary=800, budget=100_000)
    make_corpus(work, "b", TEXTS[:100])
    edits = [f"data.corpora.b.shards={work}/b-*.tar", "data.corpora.a=null"]
    shown = headrace.ok("resume", unfinished, *edits, "--dry-run").splitlines()
    assert {line.split()[0] for line in shown if line.startswith(("a ", "b "))} == {"b"}
    shutil.copy(work / "b-000000.tar", work / "a-000001.tar")
    headrace.ok("data", "index", "a-000000.tar", "a-000001.tar", "--out", "more.index", cwd=work)
    (work / "more.index").rename(work / "a.index")
    facts = json.loads(headrace.ok("check", "c.yaml", "--json", cwd=work))
    assert (facts["model"]["vocabulary"], facts["corpora"][0]["documents"]) == (2000, 400)
    assert "no checkpoint of step 9" in headrace.refused("resume", unfinished, "--step", "9", "--dry-run")
    headrace.ok("train", "c.yaml", cwd=work)


def loop(path: Path) -> None:
    """A file that root cannot read either."""
    path.unlink()
    path.symlink_to(path.name)


def folders(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def damage_ledger(run: Path) -> None:
    path = run / "attempts/0001/ledger.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"nonsense\n", *others]))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda run: [shutil.rmtree(path) for path in folders(run)],
            "no checkpoint is there, and the run has saved step 3",
        ),
        (lambda run: [flip(path / "index.json") for path in folders(run)], "no checkpoint is whole: "),
        (
            lambda run: [loop(path / "MANIFEST.json") for path in folders(run)],
            "cannot be read: Too many levels",
        ),
        (damage_ledger, "/ledger.jsonl:2: is damaged: expected a JSON object with event; remove it"),
    ],
    ids=["lost", "damaged", "unreadable", "ledger"],
)
def test_what_stops_a_start_stops_its_check(
    headrace: Commands, unfinished: Path, work: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(unfinished)
    before = names(work)
    for command in starts(unfinished):
        assert expected in headrace.refused(*command, cwd=work)
    assert names(work) == before


def test_a_damaged_checkpoint_that_is_asked_for_or_passed_over(
    headrace: Commands, unfinished: Path, work: Path
) -> None:
    newer = folders(unfinished)[-1]
    for damage, name, expected in ((flip, "index.json", ""), (loop, "MANIFEST.json", "cannot be read")):
        damage(newer / name)
        for dry in ([], ["--dry-run"]):
            line = headrace.refused("resume", unfinished, "--step", "2", *dry)
            assert f"the checkpoint of step 2 is damaged: {newer}/{name}: {expected}" in line
    for command in (["train", "c.yaml", "--dry-run"], ["check", "c.yaml"]):
        out = headrace.ok(*command, cwd=work)
        assert f"{unfinished} (exists: training goes on after step 1)" in out
        assert f"warning: will be passed over: {newer}/MANIFEST.json: cannot be read: " in out
    headrace.ok("train", "c.yaml", cwd=work)
    assert [line["step"] for line in open_run(unfinished).ledger() if line["event"] == "resume"] == [1]


def test_a_complete_run_starts_nothing_and_a_check_says_so(headrace: Commands, one: Path, home: Path) -> None:
    before = names(one)
    for command in starts(one):
        out = headrace.ok(*command, cwd=home)
        assert "is complete, 3 steps" in out
        assert "would start" not in out
    assert names(one) == before
    assert "would start: 1 × " in headrace.ok("resume", one, "--step", "2", "--dry-run")
    assert "would start: 1 × " in headrace.ok("resume", one, "steps=4", "--dry-run")


def test_a_check_of_a_rewound_run_reckons_from_where_it_went_back_to(
    headrace: Commands, unfinished: Path, work: Path
) -> None:
    """Killed before it had set aside the checkpoint of step 2, which is of the future that it gave up."""
    folder = open_run(unfinished)
    attempt = claim(folder, folder.current_config())
    attempt.begin(1, 1)
    attempt.close()
    facts = json.loads(headrace.ok("check", "c.yaml", "--json", cwd=work))
    standing = {"folder": str(unfinished), "exists": True, "step": 1, "complete": False, "init_from": None}
    assert facts["run"] == standing
    headrace.ok("train", "c.yaml", cwd=work)
    assert [line["step"] for line in folder.ledger() if line["event"] == "resume"] == [1, 1]


FILES = ("MANIFEST.json", "index.json", "progress.json", "frag-00000.safetensors", "frag-00000.blocks")


def test_one_flipped_byte_in_each_file_of_a_checkpoint(headrace: Commands, run: Path) -> None:
    newest = run / "checkpoints" / "step-00000003"
    assert {path.name for path in newest.iterdir()} == set(FILES)
    for name in FILES:
        flip(newest / name)
        done = headrace.run("checkpoint", "verify", run)
        assert (done.code, done.err) == (2, "")
        whole = [f"{run}/checkpoints/step-0000000{n}: every byte is as it was saved" for n in (1, 2)]
        assert done.out.splitlines()[:2] == whole
        assert done.out.splitlines()[2].startswith(f"{newest}/{name}: ")
        assert done.out.count("\n") == 3
        assert len(json.loads(headrace.run("checkpoint", "verify", run, "--json").out)) == 1
        line = headrace.refused("resume", run, "--step", "3", "steps=9")
        assert f"the checkpoint of step 3 is damaged: {newest}/{name}: " in line
        done = headrace.run("generate", run, "a", "--tokens", "2")
        assert (done.code, done.err.count("\n")) == (0, 1)
        assert done.err.startswith(f"passed over: {newest}/{name}: ")
        if name != FILES[-1]:
            flip(newest / name)
    out = headrace.ok("resume", run, "steps=4")
    assert f"passed over: {newest}/{FILES[-1]}: " in out
    assert [line["step"] for line in open_run(run).ledger() if line["event"] == "resume"] == [2]
    assert (run / "checkpoints" / "step-00000004").is_dir()


@pytest.mark.parametrize(
    ("number", "writer", "remedy"),
    [
        (1, "an older headrace (format 1)", "the headrace that began the run"),
        (4, "a newer headrace (format 4)", "that one"),
    ],
)
def test_a_checkpoint_of_another_format(
    headrace: Commands, run: Path, number: int, writer: str, remedy: str
) -> None:
    """It is whole, so it is neither damaged nor passed over: going on from an older one would lose steps."""
    newest = run / "checkpoints" / "step-00000003"
    manifest = json.loads((newest / "MANIFEST.json").read_bytes())
    del manifest["sha256"]
    (newest / "MANIFEST.json").write_bytes(sealed(manifest | {"format": number}))
    expected = (
        f"headrace: {newest}: was written by {writer}; this one reads formats 2 and 3: go on with {remedy}, "
        "or begin a new run"
    )
    before = names(run)
    for arguments in (
        ["resume", run, "steps=9"],
        ["resume", run, "steps=9", "--dry-run"],
        ["resume", run, "--step", "3", "steps=9"],
        ["evaluate", run],
        ["generate", run, "a"],
    ):
        assert headrace.refused(*arguments) == expected
    assert names(run) == before
    done = headrace.run("checkpoint", "verify", run)
    assert (done.code, done.out.splitlines()[2]) == (2, expected.removeprefix("headrace: "))
    assert done.out.count(": every byte is as it was saved\n") == 2
    listed = json.loads(headrace.ok("checkpoint", "ls", run, "--json"))
    assert [row["state"] for row in listed] == ["whole", "whole", f"of {writer}"]
    assert [row["resume"] for row in listed] == ["", "", ""]
    assert "step 3 of 3" in headrace.ok("status", run)
    headrace.ok("generate", run, "a", "--tokens", "2", "--step", "2")
    headrace.ok("resume", run, "--step", "2")
    assert len(list((run / "checkpoints").glob("step-00000003.abandoned-*"))) == 1


def test_no_checkpoint_is_whole_or_left(headrace: Commands, run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        flip(folder / "index.json")
    before = names(run)
    for arguments in (["resume", run, "steps=9"], ["generate", run, "a"]):
        assert "no checkpoint is whole: " in headrace.refused(*arguments)
    assert names(run) == before
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint is there yet" in headrace.ok("checkpoint", "verify", run)
    line = headrace.refused("resume", run, "steps=9")
    assert f"{run}/checkpoints: no checkpoint is there, and the run has saved step 3" in line
    assert "has no checkpoint" in headrace.refused("generate", run, "a")


@pytest.mark.parametrize("content", [b"hello\n", b"", b"\x00\xff\n", b'{"row": 0, "plan": {"seed": 1}}\n'])
def test_a_damaged_plan(headrace: Commands, run: Path, content: bytes) -> None:
    (run / "plan.jsonl").write_bytes(content)
    for arguments in (["resume", run, "steps=9"], ["data", "trace", run, "--step", "1"]):
        line = headrace.refused(*arguments)
        assert f"{run}/plan.jsonl" in line
        assert "or move it away, and a resume writes it again from its checkpoint" in line


@pytest.mark.parametrize(
    ("now", "before"), [('"max_length"', '"longest"'), ('"slot"', '"place"'), ('"block_slot"', '"place"')]
)
def test_a_plan_of_another_version(headrace: Commands, run: Path, now: str, before: str) -> None:
    plan = run / "plan.jsonl"
    text = plan.read_text() + json.dumps({"skip": {"corpus": "a", "block_slot": 0, "unit": 0}}) + "\n"
    assert now in text
    plan.write_text(text.replace(now, before))
    for arguments in (["resume", run, "steps=9"], ["data", "trace", run, "--step", "1"]):
        assert headrace.refused(*arguments) == (
            f"headrace: {plan}: was written by another version of headrace (it has '{before[1:-1]}'): go on "
            "with the headrace that began the run, or begin a new run"
        )


def test_a_plan_that_is_lost_comes_back_from_the_checkpoint(headrace: Commands, run: Path) -> None:
    headrace.ok("resume", run, "steps=4", "objectives.mlm.weight=2")
    was = [json.loads(line) for line in (run / "plan.jsonl").read_text().splitlines()]
    (run / "plan.jsonl").unlink()
    headrace.ok("resume", run, "steps=5")
    assert [json.loads(line) for line in (run / "plan.jsonl").read_text().splitlines()] == was
    assert [segment["row"] for segment in was] == [0, 12]


@pytest.mark.parametrize("name", ["config.yaml", "attempts/0001/config.yaml"])
def test_a_damaged_config_of_a_run(headrace: Commands, run: Path, home: Path, name: str) -> None:
    path = run / name
    path.write_text(path.read_text().replace("normalise:", "normalize:"))
    command = (
        ["status", run] if "attempts" in name else ["train", home / "c.yaml", f"run.folder={run.parent}"]
    )
    line = headrace.refused(*command, *([] if "attempts" in name else ["run.name=run"]))
    assert f"{path}:" in line
    assert "normalize: unknown key; did you mean normalise?" in line


def test_torn_and_damaged_lines_of_a_run(headrace: Commands, run: Path) -> None:
    metrics, ledger = run / "attempts/0001/metrics.jsonl", run / "attempts/0001/ledger.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-30])
    assert [json.loads(line)["step"] for line in headrace.ok("metrics", run, "--json").splitlines()] == [1, 2]
    assert "step 2 of 3" in headrace.ok("status", run)
    metrics.write_bytes(b"garbage\n" + whole)
    for command in (["metrics", run], ["status", run], ["data", "trace", run, "--step", "1"]):
        assert f"{metrics}:1: is damaged: expected a JSON object with step" in headrace.refused(*command)
    metrics.write_bytes(whole)
    ledger.write_bytes(b"")
    assert f"{ledger}: is missing or empty" in headrace.refused("resume", run, "steps=9")
    assert open_run(run).attempts() == []


def test_openings_that_are_lost(headrace: Commands, run: Path) -> None:
    (run / "attempts/0001/openings-0000.bin").unlink()
    for command in (["data", "trace", run, "--step", "1"], ["data", "seen", run, "000000001"]):
        assert "the openings logs (openings-NNNN.bin) are missing" in headrace.refused(*command)


def test_strange_names_in_a_run_disturb_nobody(headrace: Commands, run: Path) -> None:
    (run / "attempts" / "9x").mkdir()
    (run / "attempts" / "0099").write_text("a file")
    (run / "checkpoints" / "step-abcdefgh").mkdir()
    (run / "checkpoints" / "step-00000009").write_text("a file")
    (run / "attempts/0001/writer.json").write_text("garbage")
    assert "step 3 of 3" in headrace.ok("status", run)
    listed = json.loads(headrace.ok("checkpoint", "ls", run, "--json"))
    assert [(row["step"], row["resume"]) for row in listed] == [(1, ""), (2, ""), (3, "from here"), (9, "")]
    headrace.ok("resume", run, "steps=4")


# Places that cannot be written


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("way", ["full", "read-only"])
def test_a_disk_that_takes_nothing(headrace: Commands, one: Path, home: Path, disk: Path, way: str) -> None:
    run = Path(shutil.copytree(one, disk / "run"))
    if way == "full":
        with open(disk / "fill", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = names(disk)
    (home / "x.txt").write_text("text")
    reason = "No space left on device" if way == "full" else "Read-only file system"
    for command in (
        ["resume", run, "steps=9"],
        ["data", "pack", "x.txt", "--out", disk / "p"],
        ["data", "index", "a-000000.tar", "--out", disk / "p.index"],
        ["tokenizer", "train", "a.index", "--out", disk / "t.model", "-v", "700"],
    )[: 3 if way == "full" else 4]:  # an empty file fits on a full disk: told only after the training
        line = headrace.refused(*command, cwd=home)
        assert str(disk) in line
        assert f"cannot be written: {reason}" in line
    assert "step 3 of 3" in headrace.ok("status", run)
    assert headrace.ok("checkpoint", "verify", run).count(": every byte is as it was saved\n") == 3
    headrace.ok("generate", run, "a", "--tokens", "2")
    assert names(disk) == before


# Secrets and trust


@pytest.mark.parametrize(
    ("shard", "expected"),
    [
        ("https://h/a.tar?X-Amz-Signature=s3cret", "a URL with a signature or a key in it"),
        ("s3://b/a.tar?token=s3cret", "a URL with a signature or a key in it"),
        ("https://me:s3cret@h/a.tar", "a URL with a password in it"),
        ("https://s3cret@h/a.tar", "a URL with a password in it"),
        ("pipe:curl -H 'Authorization: Bearer s3cret' https://h/a.tar", "write $NAME here"),
        ('pipe:curl --header "X-Auth-Token: s3cret" https://h/a.tar', "write $NAME here"),
        ("pipe:wget -qO- --header=Authorization:s3cret https://h/a.tar", "write $NAME here"),
        ("pipe:AWS_SECRET_ACCESS_KEY=s3cret aws s3 cp s3://b/a.tar -", "write $NAME here"),
        ("pipe:AWS_SECRET='s3cret' aws s3 cp s3://b/a.tar -", "write $NAME here"),
        ("pipe:curl 'https://h/a.tar?token=s3cret'", "write $NAME here"),
        ("pipe:curl 'https://h/a.tar?x=1&sig=s3cret'", "write $NAME here"),
        ("pipe:wget -qO- --http-password=s3cret https://h/a.tar", "write $NAME here"),
        ("pipe:wget -qO- --http-password s3cret https://h/a.tar", "write $NAME here"),
        ("pipe:curl -su me:s3cret https://h/a.tar", "write $NAME here"),
        ("pipe:curl https://me:s3cret@h/a.tar", "write $NAME here"),
    ],
)
def test_a_secret_in_a_config(headrace: Commands, home: Path, shard: str, expected: str) -> None:
    before = names(home)
    line = headrace.refused("train", "c.yaml", f"data.corpora.a.shards={json.dumps(shard)}", cwd=home)
    assert "data.corpora.a.shards: a" in line
    assert expected in line
    assert "s3cret" not in line
    assert names(home) == before


@pytest.mark.parametrize(
    "command",
    [
        """curl -H "Authorization: Bearer $HUB" -H 'Accept: x' "https://h/a.tar?token=$HUB" -o -""",
        "AWS_SECRET_ACCESS_KEY=$HUB aws s3 cp s3://b/a.tar - --profile tokens",
        'curl -u "me:$HUB" https://me:$HUB@h:80/a.tar',
        "wget --http-password $HUB --token-file=/run/token -qO- https://h/tokens/a.tar",
        "TOKEN=`cat /run/token` ssh -i key me@host cat '/data/secret.tar'",
        "TOKEN=$(cat /run/token) gsutil cat gs://b/password-texts/a.tar",
    ],
)
def test_a_secret_in_the_environment_of_a_command(command: str) -> None:
    refuse_secret(f"pipe:{command}")


def test_a_pipe_reads_its_secret_from_the_environment(headrace: Commands, work: Path) -> None:
    key = "0123456789abcdef" * 3
    command = (
        f'pipe:test "Token: $HUB_TOKEN" = "Token: ${{HUB_TOKEN}}" -a -n "$HUB_TOKEN" && cat {shard(work)}'
    )
    headrace.ok("data", "index", command, "--out", "p.index", cwd=work, HUB_TOKEN=key)
    asked = [f"data.corpora.a.shards={json.dumps(command)}", f"data.corpora.a.index={work}/p.index"]
    headrace.ok("train", "c.yaml", *asked, cwd=work, HUB_TOKEN=key)
    assert [path for path in work.rglob("*") if path.is_file() and key.encode() in path.read_bytes()] == []


def test_no_key_reaches_the_files_of_a_run(headrace: Commands, work: Path) -> None:
    key = "0123456789abcdef" * 3
    secrets = {"WANDB_API_KEY": key, "AWS_SECRET_ACCESS_KEY": key, "HF_TOKEN": key}
    done = headrace.run("train", "c.yaml", "wandb.mode=offline", cwd=work, HOME=str(work), **secrets)
    assert done.code == 0
    files = [path for path in (work / "one").rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in files)
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert key not in done.out + done.err


UNSAFE = {
    *("pickle", "marshal", "shelve", "dill", "joblib", "eval", "exec", "extractall", "extract"),
    *("unsafe_load", "full_load", "system"),
}


def test_nothing_that_is_read_can_run_code() -> None:
    """No pickle, no unsafe YAML, no eval, no tar member written by its name: in none of the rooms."""
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            used: list[str] = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                used = [alias.name for alias in node.names] + [str(getattr(node, "module", ""))]
            elif isinstance(node, ast.Call):
                function = ast.unparse(node.func)
                last = function.rpartition(".")[2]
                used = [last] if last != "eval" or function == "eval" else []
                used += [function] if function in ("torch.load", "yaml.load", "np.load") else []
                used += [
                    keyword.arg or "" for keyword in node.keywords if keyword.arg in ("shell", "allow_pickle")
                ]
            bad = UNSAFE | {"torch.load", "yaml.load", "np.load", "shell", "allow_pickle"}
            assert not bad & set(used), f"{path}:{getattr(node, 'lineno', 0)}: {bad & set(used)}"
