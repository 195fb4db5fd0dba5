"""Text of its own to be evaluated on: the same on any number of ranks, without a trace in training, refused
where it is trained on, and what a start changes of it on the record. Real shards, ranks and commands."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import BadInput
from data.prepare.build_index import build_index
from launcher.inference.evaluate import evaluate
from launcher.runs.branch import fork, make
from launcher.runs.eval_rows import require_same_rows, rows_before
from launcher.runs.lineage import merged
from launcher.runs.run_folder import open_run
from objectives.registry import NAMES
from tests.support.commands import Commands
from tests.support.helpers import TrainingText, make_corpus
from tests.support.stream_runs import texts
from tests.support.training import assert_close, config, told, train

TEXT: dict[str, list[str]] = {"val": texts(300, 9), "one": ["a single document of a few words"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval")
    for name, documents in TEXT.items():
        make_corpus(path, name, documents)
    return path


def plain(text: TrainingText, run: Path, names: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """A run of 3 steps on corpora that hold nothing out."""
    corpora = {name: {"shards": str(path / f"{name}-*.tar")} for name, path in names.items()}
    evaluation = {"eval": {"every": 3, "bytes": 3_000, "corpora": corpora}} if names else {}
    data = {"corpora": {"code": {"shards": text.code}, "prose": {"shards": text.prose}}, "block_bytes": 4_000}
    model = {"layers": 1, "width": 32, "heads": 2}
    return config(text, run, **{"steps": 3, "data": data, "model": model} | evaluation | changes)


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [line for line in merged(open_run(run / "run")) if "eval" in line]


def test_losses_on_text_of_its_own_are_those_of_one_rank_and_of_evaluate(
    text: TrainingText, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One document makes a row an objective, so of 3 ranks (ZeRO 3) two have none of it."""
    names = dict.fromkeys(TEXT, folder)
    for ranks, zero in ((1, 1), (3, 3)):
        changes = {"layout": {"zero": zero, "micro_batch": 2}}
        train(ranks, plain(text, tmp_path / str(ranks), names, **changes))
    one, three = evaluations(tmp_path / "1"), evaluations(tmp_path / "3")
    assert [line["step"] for line in one] == [0, 3]
    for line, other in zip(one, three, strict=True):
        assert list(line["eval"]) == ["val", "one"]
        assert line["eval"]["val"].keys() == set(NAMES)
        assert_close(line["eval"], other["eval"])
        assert line["eval"]["val"]["causal"]["bits_per_byte"] > 0
        assert line["eval"]["one"]["causal"]["tokens"] > 5
    before, after = (line["eval"]["val"]["causal"] for line in one)
    assert before["rows"] == after["rows"] != one[0]["eval"]["one"]["causal"]["rows"]
    assert before["loss"] != after["loss"]

    more = tmp_path / "more"
    more.mkdir()
    make_corpus(more, "late", texts(40, 11))
    edit = f"eval.corpora.late.shards={more}/late-*.tar"
    evaluate(open_run(tmp_path / "3" / "run"), [edit], None, json=True)
    found = json.loads(capsys.readouterr().out)["eval"]
    assert_close({name: found[name] for name in TEXT}, three[1]["eval"])
    assert found["late"]["mlm"]["loss"] > 0


def test_what_a_resume_changes_of_it_is_on_the_record_and_changes_no_row(
    text: TrainingText, folder: Path, tmp_path: Path
) -> None:
    train(1, plain(text, tmp_path, dict.fromkeys(TEXT, folder), steps=5))
    other, new = tmp_path / "other", tmp_path / "new"
    for path in (other, new):
        path.mkdir()
    make_corpus(other, "val", texts(300, 10))
    make_corpus(new, "late", texts(40, 11))
    (left,) = train(1, plain(text, tmp_path, {"val": other, "late": new}, steps=7))
    table = left.said.partition("on eval.corpora, ")[2].splitlines()[2:]
    assert [row.split()[:3] for row in table[: len(NAMES)]] == [["val", name, "6"] for name in NAMES]
    assert table[len(NAMES)].split()[:3] == ["late", NAMES[0], "6"]
    train(1, plain(text, tmp_path / "straight", {}, steps=7))
    run = open_run(tmp_path / "run")
    was, line = [line for line in run.ledger() if line["event"] == "evaluation"]
    assert [said.partition(":")[2].split(" (")[0] for said in line["changed"]] == [
        " late is evaluated on from here on",
        " one is evaluated on no more",
        " the rows of val are others than before this start",
    ]
    cells = [line["eval"] for line in evaluations(tmp_path)]
    assert [[*cell] for cell in cells] == [["val", "one"]] * 3 + [["val", "late"]] * 2
    first, last = (cell["val"]["causal"]["rows"] for cell in (cells[0], cells[-1]))
    assert first != last == line["rows"]["val"]["causal"]
    rows = [[line["fingerprint"] for line in told(path)] for path in (tmp_path, tmp_path / "straight")]
    assert rows[0] == rows[1]
    branch, _ = make(fork(run, 5, "branch", None))
    assert rows_before(branch, branch.attempts()[-1]) == was["rows"], "a branch knows them too"
    require_same_rows(line["rows"], line["rows"])
    with pytest.raises(BadInput, match=r"evaluation: the rows of val on \S+ are not those of rank 0; "):
        require_same_rows(was["rows"], line["rows"])


CONFIG = """\
run: {{name: r, folder: "{folder}/runs"}}
steps: 2
sequence_length: 64
batch_rows: 4
tokenizer: {{model: "{model}"}}
data: {{corpora: {{a: {{shards: "{folder}/a-*.tar"}}}}, block_bytes: 4096, patience: 0}}
objectives: {{causal: {{}}, nsp: {{}}}}
model: {{layers: 1, width: 16, heads: 2}}
optimizer: {{lr: 1.0e-3, warmup: 1}}
layout: {{zero: 0, micro_batch: 4}}
eval: {{every: 2, bytes: 4000, corpora: {{val: {{shards: "{folder}/val-*.tar"}}}}}}
wandb: {{mode: disabled}}
"""


@pytest.fixture
def work(tmp_path: Path, text: TrainingText) -> Path:
    make_corpus(tmp_path, "a", texts(400, 1))
    make_corpus(tmp_path, "val", texts(100, 2))
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path, model=text.tokenizer_path))
    return tmp_path


def test_a_shard_that_is_trained_on_is_refused_by_whatever_name(headrace: Commands, work: Path) -> None:
    shard = work / "a-000000.tar"
    shutil.copy(shard, work / "copy-000000.tar")
    os.link(shard, work / "hard-000000.tar")
    (work / "soft-000000.tar").symlink_to(shard)
    for name in ("copy", "hard", "soft"):
        build_index([str(work / f"{name}-000000.tar")], work / f"{name}.index")
    for name in ("a", "copy", "hard", "soft"):
        edit = f"eval.corpora.{name}x={{shards: {work}/{name}-*.tar, index: {work}/{name}.index}}"
        for command in ("check", "train"):
            line = headrace.refused(command, "c.yaml", edit, cwd=work)
            key = f"eval.corpora.{name}x"
            assert f"{key}: {work}/{name}-000000.tar is trained on too: corpus a has it" in line
    assert not (work / "runs").exists()


def test_what_is_wrong_with_it_is_one_line_with_its_key(headrace: Commands, work: Path) -> None:
    key = "eval.corpora.val"
    line = headrace.refused("check", "c.yaml", "data.corpora.val.shards=a-*.tar", cwd=work)
    assert f"{key}: data.corpora has one of this name too" in line
    line = headrace.refused("check", "c.yaml", f"{key}.quarantine=[nobody]", cwd=work)
    assert f"{key}.quarantine: none of the 100 documents of corpus val has the key 'nobody'" in line
    headrace.ok("train", "c.yaml", cwd=work)
    shard = work / "val-000000.tar"
    content, stat = bytearray(shard.read_bytes()), shard.stat()
    middle = len(content) // 2
    content[middle] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shown = headrace.refused("evaluate", work / "runs" / "r", cwd=work).splitlines()[-1]
    assert f"headrace: {key}: {shard}, unit 0" in shown
    assert "there is no evaluation without it" in shown
    shard.rename(work / "away")
    done = headrace.run("resume", work / "runs" / "r", "steps=4", cwd=work)
    assert done.code == 75, done.err
    assert f"{key}: " in done.err.splitlines()[-1]
