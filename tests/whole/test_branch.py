"""Branches: new runs that go on from a checkpoint of another one, and need nothing of it afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.durable import read_lines
from launcher.runs.run_folder import open_run
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.sources import ROOT
from tests.support.training import (
    assert_same_run,
    assert_same_tensors,
    begin,
    begun,
    config,
    last_step,
    saved,
    told,
    train,
)

SMALL: dict[str, Any] = {
    "steps": 12,
    "model": {"layers": 1, "width": 16, "heads": 2, "dropout": 0.1},
    "checkpoint": {"every": 4, "keep": 3},
}


@pytest.fixture(scope="module")
def trunk(text: TrainingText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 12 steps on 2 ranks, saved after 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("trunk")
    train(2, config(text, folder, **SMALL))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_branch_is_its_trunk_bit_for_bit_whatever_becomes_of_that(
    headrace: Commands, text: TrainingText, trunk: Path, tmp_path: Path
) -> None:
    """Also a branch of a branch, and once the trunk went back and was deleted."""
    other = tmp_path / "other"
    shutil.copytree(trunk, other)
    first, second = tmp_path / "first", tmp_path / "second"
    before = bytes_of(other)
    said = headrace.ok("branch", other / "run", "--step", "4", "--name", "run", "--folder", first)
    assert "at step 4; its checkpoint is linked" in said
    assert bytes_of(other) == before, "a branch only reads"
    link = first / "run/checkpoints/step-00000004/frag-00000.safetensors"
    assert link.samefile(other / "run/checkpoints/step-00000004/frag-00000.safetensors")
    assert "branched" in headrace.ok("status", first / "run")
    # The trunk goes back under another rate, and takes its own way over the same step numbers.
    linked = bytes_of(first)
    plain = config(text, other, **SMALL) | {"optimizer": {"lr": 1e-3, "warmup": 5}, "steps": 10}
    plain |= {"checkpoint": {"every": 1, "keep": 1, "keep_every": 2, "weights_only_after": 1}}
    train(2, plain, step=4)
    assert bytes_of(first) == linked, "what is linked is never changed where it lies"
    train(2, config(text, first, **SMALL) | {"steps": 8})
    headrace.ok("branch", first / "run", "--name", "run", "--folder", second, "steps=12")
    shutil.rmtree(other)
    train(2, config(text, first, **SMALL))
    shutil.rmtree(first / "run" / "checkpoints" / "step-00000004")
    train(2, config(text, second, **SMALL))
    for folder in (first, second):
        assert_same_run(folder, trunk)
    status = headrace.ok("status", second / "run")
    assert f"branched from {first}/run at step 8, which branched from {other}/run at step 4" in status
    lines = [json.loads(line) for line in headrace.ok("metrics", second / "run", "--json").splitlines()]
    made = {line["step"]: line.get("of") for line in lines}
    assert [made[step] for step in (1, 4, 5, 8, 9)] == [
        *(f"{other}/run",) * 2,
        *(f"{first}/run",) * 2,
        None,
    ]
    for step in (
        3,
        7,
        11,
    ):  # by the openings and the plan that came along; fingerprints agree, or it is refused
        ours = headrace.run("data", "trace", second / "run", "--step", step, "--json")
        assert ours.out == headrace.ok("data", "trace", trunk / "run", "--step", step, "--json")
        assert "fingerprint agrees" in ours.err
    key = json.loads(ours.out.splitlines()[0])["pieces"][0]["key"]
    assert headrace.ok("data", "seen", second / "run", key) == headrace.ok("data", "seen", trunk / "run", key)


def test_a_branch_with_fewer_steps_than_it_has_is_told_what_goes_on(
    headrace: Commands, trunk: Path, tmp_path: Path
) -> None:
    """`steps` is doubled until there is something to do."""
    fewer = ("--step", "8", "--name", "fewer", "--folder", tmp_path, "steps=4")
    line = f"go on with: headrace resume {tmp_path / 'fewer'} steps=16"
    assert line in headrace.ok("branch", trunk / "run", *fewer)
    assert line in headrace.ok("status", tmp_path / "fewer")
    assert "goes on after step 8" in headrace.ok("resume", tmp_path / "fewer", "steps=16", "--dry-run")


def test_edits_are_those_of_a_resume_and_what_is_refused_leaves_nothing(
    headrace: Commands, text: TrainingText, trunk: Path, tmp_path: Path
) -> None:
    """The lines of a refused branch are those of a refused resume."""
    run = trunk / "run"
    for edit in (
        *("seed=2", "lanes=6", "model.width=32", "steps=0", "data.corpora.code.held_out=0.2", "lr=1"),
        *("data.streams=2", "init_from=/nowhere", "data.corpora.code.shards=/nowhere/*.tar"),
        *("data.corpora.prose.quarantine=[nobody]", "tokenizer.model=/nowhere", "model.rotary=1"),
        *(f"eval.corpora.v.shards={text.code}", "eval.corpora.v.shards=/nowhere/*.tar"),
    ):
        refused = headrace.refused("branch", run, "--name", "b", "--step", "8", "--folder", tmp_path, edit)
        assert refused == headrace.refused("resume", run, "--step", "8", edit), edit
    for words, line in (
        (("--name", "run"), f"--name: {run} exists; name a new run"),
        (("--name", "a/b"), "--name: run.name: expected "),
        (("--name", "b", "--step", "5"), "no checkpoint of step 5; there are: 4, 8, 12"),
        (("--name", "b", "--folder", "s3://x/y"), "--folder: expected a local folder"),
        (("--name", "b", "--folder", str(run)), "lies in the run"),
        (("--name", "b", "run.name=c"), "run: a branch is named by --name and --folder"),
        ((), "--name is missing"),
    ):
        assert line in headrace.refused("branch", run, *words), words
    assert {entry.name for entry in trunk.iterdir()} == {"run"}
    assert [*tmp_path.iterdir()] == []
    made = headrace.run(
        *("branch", run, "--step", "8", "--name", "b", "--folder", tmp_path),
        *("optimizer.lr=0.001", "data.corpora.prose.weight=3", "steps=20"),
    )
    assert made.code == 0
    assert "the edit moves the learning rate: it jumps from 1.00e-02 at step 8" in made.err
    assert f"go on with: headrace resume {tmp_path}/b\n" in made.out
    branch = open_run(tmp_path / "b")
    assert (branch.current_config().optimizer.lr, branch.current_config().steps) == (0.001, 20)
    assert headrace.ok("resume", branch.path, "--dry-run", "data.threads=0").endswith("data.threads=0\n")


def test_what_cannot_be_gone_on_with_is_one_line(headrace: Commands, trunk: Path, tmp_path: Path) -> None:
    """Damage in the large files too; of the newest by default, those before it serve."""
    folder = tmp_path / "damaged"
    shutil.copytree(trunk, folder)
    saves = folder / "run/checkpoints"
    with (saves / "step-00000012/frag-00001.safetensors").open("r+b") as file:
        file.seek(3000)
        file.write(b"\0\1\2\3")
    asked = ("branch", folder / "run", "--name", "b")
    line = headrace.refused(*asked, "--step", "12")
    assert "the checkpoint of step 12 is damaged" in line
    assert "frag-00001.safetensors: bytes 0 to" in line
    (saves / "step-00000008").rename(saves / "weights-00000008")
    line = headrace.refused(*asked, "--step", "8")
    assert line.endswith(f"a new run begins from them with init_from={folder}/run@8")
    done = headrace.run(*asked, "steps=4")
    assert done.code == 0
    assert "it has all its steps already (4): raise them\ngo on with: headrace resume" in done.out
    assert "warning: passed over: " in done.err
    assert "at step 4; " in done.out
    (saves / "step-00000004/index.json").unlink()
    assert "no checkpoint is whole" in headrace.refused("branch", folder / "run", "--name", "c")
    assert "index.json: missing" in headrace.refused(*asked[:3], "c", "--step", "4")
    shutil.rmtree(saves)
    assert "has no checkpoint to go on from" in headrace.refused("branch", folder / "run", "--name", "c")
    assert {entry.name for entry in folder.iterdir()} == {"run", "b"}


def test_where_no_links_can_be_had_the_files_are_copied_and_that_is_told(
    headrace: Commands, trunk: Path
) -> None:
    """A real other file system."""
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(trunk).st_dev:
        pytest.skip("no second file system here")
    folder = other / f"headrace-{os.getpid()}"
    try:
        said = headrace.ok("branch", trunk / "run", "--name", "b", "--folder", folder, "--json")
        assert json.loads(said)["copied"] == "Invalid cross-device link"
        assert bytes_of(folder / "b/checkpoints") == {
            name: content
            for name, content in bytes_of(trunk / "run/checkpoints").items()
            if name.startswith("step-00000012")
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.faults
def test_a_trunk_that_is_trained_is_branched_and_a_killed_branch_leaves_no_run(
    headrace: Commands, text: TrainingText, tmp_path: Path
) -> None:
    """A branch of a run under way equals what that trains; kill -9 at any moment leaves a branch or none."""
    folder = tmp_path / "trunk"
    plain = config(text, folder, **SMALL) | {"steps": 60, "checkpoint": {"every": 4, "keep": 15}}
    running = begin(2, plain)
    begun(folder, 6, running)
    said = headrace.ok("branch", folder / "run", "--name", "run", "--folder", tmp_path / "live", "steps=60")
    assert last_step(folder) < 60, "the trunk was over before it was branched"
    running.wait()
    train(2, config(text, tmp_path / "live", **SMALL) | {"steps": 60})
    assert_same_run(tmp_path / "live", folder)
    assert " at step " in said
    command = [sys.executable, "-m", "launcher.cli.main", "branch", str(folder / "run"), "--name", "b"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole = 0
    for kill in range(6):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and not [*folder.glob(".b.new-*")]:
            time.sleep(0.001)
        time.sleep(0.004 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        entries = {entry.name for entry in folder.iterdir()} - {"run"}
        if "b" in entries:
            whole += 1
            shutil.rmtree(folder / "b")
        else:
            assert all(name.startswith(".b.new-") for name in entries)
    print(f"{whole} of 6 were complete")
    headrace.ok("branch", folder / "run", "--name", "b")
    assert {entry.name for entry in folder.iterdir()} == {"run", "b"}, "what was killed is cleared away"
    assert np.isfinite([line["loss"] for line in told(tmp_path / "live")]).all()
    assert_same_tensors(saved(tmp_path / "live"), saved(folder))


def test_a_branch_counts_what_its_trunk_left_out(headrace: Commands, trunk: Path, tmp_path: Path) -> None:
    """As a resume of the trunk would: whenever and by whichever attempt it was found, each once."""
    folder = tmp_path / "skips"
    shutil.copytree(trunk, folder)
    ledger = folder / "run/attempts/0001/ledger.jsonl"
    skip = {"event": "skip", "time": 1.0, "place": 0, "problem": "no text", "row": 999, "corpus": "code"}
    lines = [
        *ledger.read_text().splitlines(),
        *(json.dumps(skip | {"unit": u, "key": "k"}) for u in (1, 2, 1)),
    ]
    ledger.write_text("\n".join(lines) + "\n")
    with (folder / "run/plan.jsonl").open("a") as plan:
        plan.write(json.dumps({"skip": {"corpus": "code", "block_slot": 4, "unit": 3}}) + "\n")
    asked = ("branch", folder / "run", "--step", "4", "--name")
    budget = ("data.on_bad.action=skip", "data.on_bad.budget=1")
    refused = headrace.refused(*asked, "b", *budget)
    assert "data.on_bad.budget: 2 samples and units would be left out" in refused
    headrace.ok(*asked, "b", budget[0])
    headrace.ok("branch", folder / "b", "--name", "c")
    for name in "bc":
        run = open_run(folder / name)
        found = [(line["unit"], line["key"]) for line in run.ledger() if line["event"] == "skip"]
        assert found == [(1, "k"), (2, "k")]
        assert [line["skip"]["unit"] for line in read_lines(run.plan) if "skip" in line] == [3]
