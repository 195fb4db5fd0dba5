"""`headrace prove` on clean ranks and on ranks with a fault; the faults stand in tests/support/planted.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.config.yaml_reader import dump_yaml
from launcher.proving.jobs import Job, LocalRanks, results
from launcher.proving.measure import CHECKS
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.planted import FAULTS, examine
from tests.support.sources import ROOT
from tests.support.training import config

STAGED = {
    "model": {"layers": 3, "width": 32, "heads": 2, "dropout": 0.1},
    "layout": {"zero": 1, "micro_batch": 4, "pipeline": 2},
}
BF16 = {"layout": {"zero": 2, "micro_batch": 4, "precision": "bf16"}}
BF16_ZERO_3 = {"layout": {"zero": 3, "micro_batch": 4, "precision": "bf16", "activation_checkpointing": True}}
SEQUENCE = {
    "model": {"layers": 2, "width": 32, "heads": 2},
    "layout": {"zero": 3, "micro_batch": 4, "sequence": 2},
}
TENSOR = {
    "model": {"layers": 2, "width": 32, "heads": 2, "dropout": 0.1},
    "layout": {"zero": 1, "micro_batch": 4, "tensor": 2},
    "ema": {"decay": 0.9, "every": 2},
}
AXES = {"pipeline", "sequence", "tensor"}


def assert_shown(plain: dict[str, Any], used: set[str]) -> None:
    """Every check that has something to show shows it. used: axes of the layout."""
    proved = examine(plain)
    assert proved.code == 0, str(proved)
    assert proved.shown() == CHECKS.keys() - AXES | used
    skipped = {line["check"] for line in proved.report["checks"] if line["verdict"] == "skipped"}
    assert skipped == AXES - used
    for line in proved.report["checks"]:
        assert line["reason"]


def test_a_clean_tree_is_shown(text: TrainingText, tmp_path: Path) -> None:
    """Seven objectives, dropout, ZeRO 1 on two ranks: killed, resumed, and held against every other run."""
    assert_shown(config(text, tmp_path), set())


@pytest.mark.full
@pytest.mark.parametrize(
    ("changes", "used"),
    [
        pytest.param(BF16, set(), id="bf16 zero 2"),
        pytest.param(BF16_ZERO_3, set(), id="bf16 zero 3"),
        pytest.param(STAGED, {"pipeline"}, id="pipeline"),
        pytest.param(SEQUENCE, {"sequence"}, id="sequence"),
        pytest.param(TENSOR, {"tensor"}, id="tensor"),
    ],
)
def test_a_clean_tree_is_shown_in_other_layouts(
    text: TrainingText, tmp_path: Path, changes: dict[str, Any], used: set[str]
) -> None:
    assert_shown(config(text, tmp_path, **changes), used)


FOUND: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("pipeline_gradient", STAGED, {"pipeline": "norm of step 1", "single": "norm", "loss": "norm"}),
    ("update_left_out", BF16, {"updates": "made the step of a NaN"}),
    ("nan_applied", {}, {"updates": "state it moved"}),
    (
        "mean_of_means",
        {},
        {"accumulation": "losses of step 1", "single": "losses of", "loss": "global batch"},
    ),
    ("mask_off_by_one", {}, {"segments": "what it must not see"}),
    ("stream_forgets", {}, {"resume": "other rows"}),
    ("tie_drifts", STAGED, {"replicas": "copies that differ"}),
    ("others_rows", {}, {"single": "losses of step 1", "loss": "by objective"}),
    ("lost_moments", {}, {"resume": "tensors of the state"}),
]
"""Fault, config, and of each check that must find it what a line that fails speaks of."""

BRIEF = ("nan_applied", "lost_moments")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "changes", "lines"),
    [pytest.param(*row, marks=() if row[0] in BRIEF else pytest.mark.full, id=row[0]) for row in FOUND],
)
def test_a_planted_fault_is_found(
    text: TrainingText, tmp_path: Path, fault: str, changes: dict[str, Any], lines: dict[str, str]
) -> None:
    proved = examine(config(text, tmp_path, **changes), fault, only=[*lines])
    print(f"{fault}:\n{proved}")
    assert proved.code == 1
    assert proved.failed().keys() == lines.keys()
    for check, words in lines.items():
        assert any(words in line["what"] for line in proved.failed()[check]), proved.failed()[check]


def test_ranks_that_end_early_are_a_failure_with_their_words(text: TrainingText, tmp_path: Path) -> None:
    proved = examine(config(text, tmp_path), "stops_in_a_step", only=["replicas", "updates"])
    assert proved.code == 1
    lines = proved.failed()
    assert lines.keys() == {"replicas", "updates"}
    for (line,) in lines.values():
        assert "planted: no such memory" in line["detail"], line
        assert line["figure"] is None


def test_each_fault_has_a_proof_that_must_find_it() -> None:
    assert {fault for fault, _, _ in FOUND} == FAULTS.keys()


def test_ranks_of_this_machine_do_a_job(tmp_path: Path) -> None:
    """As the command starts them: one rank that does nothing, and one whose task is none."""
    for name, tasks, words in (("idle", [], None), ("odd", [{"name": "a", "do": "nothing"}], "KeyError")):
        folder = Job(name, name, 1, tasks).write(tmp_path)
        said = LocalRanks(gpu=False, most=1).start(folder, 1).wait()
        assert words in said if words and said else said is None
        assert results(tmp_path, name, "a") == []


@pytest.fixture
def file(text: TrainingText, tmp_path: Path) -> Path:
    """A config of stages, as a user has it."""
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(config(text, tmp_path, **STAGED)))
    return path


def test_what_would_be_shown_is_told_and_nothing_begun(headrace: Commands, file: Path) -> None:
    said = headrace.ok("prove", file, "--dry-run", "--only", "pipeline", TMPDIR=str(file.parent))
    assert "on 4 processes (pipeline 2 × data 2), the CPU, over gloo" in said
    assert [line.split()[0] for line in said.splitlines() if line.endswith("not asked for")] == [
        name for name in CHECKS if name != "pipeline"
    ]
    line = headrace.refused("prove", file, "--only", "speed")
    assert "no check 'speed'; there are resume, single" in line
    assert "tokenizer.model: no file" in headrace.refused("prove", file, "tokenizer.model=none.model")
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]


@pytest.mark.full
def test_the_command_shows_stages_and_leaves_nothing_behind(file: Path) -> None:
    """With ranks of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "prove", str(file), "--json"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(file.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["shown"], report
    assert "prove 5/5" in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]


@pytest.mark.faults
@pytest.mark.full
def test_a_proof_that_is_interrupted_leaves_nothing_behind(file: Path) -> None:
    """SIGINT while its ranks train: folder and ranks are gone."""
    proof = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "prove", str(file)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(file.parent)},
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    while not list(file.parent.glob("headrace-prove-*/runs/straight/attempts/*/metrics.jsonl")):
        assert proof.poll() is None
        time.sleep(0.05)
    os.kill(proof.pid, signal.SIGINT)
    proof.communicate(timeout=60)
    assert proof.returncode
    end = time.monotonic() + 10
    while ranks := [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(file.parent) in text_of(one)]:
        assert time.monotonic() < end, ranks
        time.sleep(0.1)
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]


def text_of(path: Path) -> str:
    """What a file of /proc says; nothing where its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
