"""Records, consoles, the wandb feeder: real files, a real terminal, real wandb processes, a dead server."""

import io
import json
import math
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.durable import read_lines
from data.errors import BadInput
from data.provenance.openings import OpeningsLog
from data.stream.streams import Opening
from launcher.config import run_config
from launcher.reporting.metrics_table import evaluations_table, metrics_table
from launcher.runs.run_folder import RunFolder, claim, start
from launcher.runs.trunk import Trunk
from launcher.tracking import wandb_feed
from launcher.tracking.console import Pace, PlainConsole, watch
from launcher.tracking.records import (
    CorpusRecord,
    DrawnRecord,
    EvalCell,
    EvalRecord,
    ObjectiveRecord,
    SampleRecord,
    StepRecord,
    to_json,
)
from launcher.tracking.tracker import Tracker
from tests.launcher.test_run_folder import CONFIG, refuse_to_sync

STEP = StepRecord(
    step=1,
    attempt=1,
    rows=8,
    tokens=900,
    target_tokens=700,
    unknown=0.02,
    loss=6.5,
    objectives={"causal": ObjectiveRecord(6.5, 700.0, 700, 1.0)},
    corpora={"code": CorpusRecord(6.5, 8, 1.0, 0.25, 1.0, 1.0)},
    drawn=DrawnRecord(5, 2, 1),
    lr=1e-3,
    grad_norm=0.5,
    tokens_per_second=1000.0,
    mfu=None,
    data_wait=0.01,
    step_seconds=0.9,
    memory_gib=0.5,
    fingerprint=None,
)
NAMES = {
    *("step", "attempt", "time", "rows", "tokens", "target_tokens", "loss", "objectives", "corpora", "lr"),
    *("grad_norm", "tokens_per_second", "mfu", "data_wait", "step_seconds", "memory_gib", "fingerprint"),
    *("unknown", "drawn", "padding", "cuts"),
}
EVAL = EvalRecord(
    1, 1, {"code": {"causal": EvalCell(6.4, 0.1, 2.5, 300), "nsp": EvalCell(0.7, 0.5, None, 9)}}, 1.0
)
SAMPLES = SampleRecord(1, 1, [{"prompt": "def ", "text": "f(x):\n"}])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "tok.model").write_bytes(b"pieces")
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    return start(run_config.load(file))[0]


def test_a_line_has_the_names_of_the_design() -> None:
    assert set(json.loads(to_json(STEP))) == NAMES
    assert set(json.loads(to_json(STEP))["objectives"]["causal"]) == {"loss", "weight", "tokens", "share"}
    assert set(json.loads(to_json(STEP))["corpora"]["code"]) == {
        *("loss", "rows", "share", "epoch", "achieved", "asked"),
    }
    cell = json.loads(to_json(EVAL))["eval"]["code"]["nsp"]
    assert cell == {"loss": 0.7, "accuracy": 0.5, "bits_per_byte": None, "tokens": 9, "rows": ""}
    assert json.loads(to_json(EVAL))["ema"] is None
    assert set(json.loads(to_json(replace(EVAL, ema=EVAL.eval)))["ema"]) == {"code"}


def test_what_is_no_number_is_null() -> None:
    bad = replace(
        STEP, loss=math.nan, grad_norm=math.inf, objectives={"mlm": ObjectiveRecord(math.nan, 0.0, 0, 0.0)}
    )
    line = json.loads(to_json(bad))
    assert (line["loss"], line["grad_norm"], line["objectives"]["mlm"]["loss"]) == (None, None, None)


def test_lines_written_before_kill_9_are_all_there(tmp_path: Path) -> None:
    script = """
import sys, time
from dataclasses import replace
from pathlib import Path
from launcher.tracking.tracker import Tracker
from tests.launcher.test_tracking import STEP
tracker = Tracker(Path(sys.argv[1]))
for step in range(1, 10_000):
    tracker.write(replace(STEP, step=step))
    print(step, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 50:
            break
    process.kill()
    last = max([int(line) for line in process.stdout.read().splitlines()], default=50)
    steps = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= last


def test_the_plain_console_prints_a_line_every_few_steps(tmp_path: Path) -> None:
    stream = io.StringIO()
    tracker = Tracker(tmp_path, [watch(stream, "r", steps=7, every=3)])
    for step in range(1, 8):
        tracker.write(replace(STEP, step=step, loss=None if step == 3 else 6.5))
    tracker.write(replace(EVAL, ema={"code": {"nsp": EvalCell(0.6, 0.75, None, 9)}}))
    tracker.write(SAMPLES)
    tracker.note("checkpoint 7 saved")
    tracker.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["3/7", "6/7", "7/7"]
    assert "loss –" in lines[0]
    assert "0:00:00 left" in lines[2]
    assert lines[3] == (
        "held out, step 1, code: causal 6.400 (10.0% right, 2.500 bits/byte)  nsp 0.700 (50.0% right)"
    )
    assert lines[4] == "held out, ema, step 1, code: nsp 0.600 (75.0% right)"
    assert lines[5] == r"sample, step 1: 'def ' → 'f(x):\n'"
    assert lines[6] == "checkpoint 7 saved"
    assert len(list(read_lines(tmp_path / "metrics.jsonl"))) == 9


def test_the_time_left_follows_the_clock_on_the_wall() -> None:
    pace = Pace(100)
    assert pace.left() is None
    for step in range(1, 11):
        pace.see(step, step * 2.0)
    assert pace.left() == 180.0


def test_metrics_show_evaluations_beside_steps() -> None:
    lines = [json.loads(to_json(record)) for record in (STEP, replace(EVAL, ema=EVAL.eval), SAMPLES)]
    assert [row[0] for row in metrics_table(lines)[1]] == [STEP.step]
    titles, rows = evaluations_table(lines)
    assert titles == ["step", "weights", "corpus", "objective", "loss", "accuracy", "bits_per_byte"]
    assert rows[0] == [1, "trained", "code", "causal", 6.4, 0.1, 2.5]
    assert [row[1:4] for row in rows[2:]] == [["ema", "code", "causal"], ["ema", "code", "nsp"]]


def test_a_terminal_gets_a_live_view(tmp_path: Path) -> None:
    script = """
import sys, time
from dataclasses import replace
from pathlib import Path
from launcher.tracking.console import watch
from launcher.tracking.tracker import Tracker
from tests.launcher.test_tracking import EVAL, SAMPLES, STEP
tracker = Tracker(Path(sys.argv[1]), [watch(sys.stdout, "my-run", steps=40, every=1000)])
tracker.note("resumed from step 0")
for step in range(1, 21):
    tracker.write(replace(STEP, step=step))
    time.sleep(0.05)
tracker.write(EVAL)
tracker.close()
"""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            seen += os.read(main, 65536)
        except OSError:
            break
    assert process.wait() == 0, process.stderr
    text = seen.decode()
    for expected in ("my-run", "step 20/40", "causal", "left", "held out, step 1", "resumed from step 0"):
        assert expected in text
    assert "\x1b[?25h" in text  # the cursor is given back


def test_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from launcher.training.redirect_output import quiet
print("before")
with quiet(Path(sys.argv[1]), print) as terminal:
    print("from python")
    os.write(2, b"from C\\n")
    print("step 1", file=terminal)
    raise ValueError("seen by the user")
"""
    log = tmp_path / "rank-0000.log"
    done = subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, text=True)
    assert sorted(log.read_text().splitlines()) == ["from C", "from python"]
    assert done.stdout == "before\nstep 1\n"
    assert "seen by the user" in done.stderr


def attempt_of(
    run: RunFolder, first: int, last: int, parent: int | None, mode: str = "offline", *edits: str
) -> float:
    """One attempt with its feeder, steps first … last; returns the seconds that closing the feeder took."""
    config = run_config.edit(run.current_config(), [f"wandb.mode={mode}", *edits])
    attempt = claim(run, config)
    attempt.begin(first - 1, parent)
    feed = wandb_feed.Feed(run, attempt.number, attempt.path / "wandb.log")
    tracker = Tracker(attempt.path)
    for step in range(first, last + 1):
        tracker.write(replace(STEP, step=step, attempt=attempt.number))
    tracker.write(replace(EVAL, step=last, attempt=attempt.number))
    tracker.write(replace(SAMPLES, step=last, attempt=attempt.number))
    begin = time.monotonic()
    feed.close()
    attempt.close()
    return time.monotonic() - begin


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """wandb's files, leveldb logs: blocks of 32 KiB; checksum (4), length (2), kind (1: whole, 4: last)."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def fed(run: RunFolder) -> tuple[set[str], list[int]]:
    """The ids and steps in wandb's own offline files."""
    histories = fed_by_id(run)
    return set(histories), [step for steps in histories.values() for step in steps]


def offline_records(run: RunFolder) -> Iterator[Any]:
    """Those in wandb's own offline files, oldest first."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted((run.path / "wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record


def fed_by_id(run: RunFolder) -> dict[str, list[int]]:
    """The steps in wandb's own offline files."""
    histories: dict[str, list[int]] = {}
    for record in offline_records(run):
        if record.HasField("run"):
            steps = histories.setdefault(record.run.run_id, [])
        if record.HasField("history"):
            steps.append(record.history.step.num)
    return histories


def test_wandb_has_one_id_and_each_step_once_over_restarts(run: RunFolder) -> None:
    attempt_of(run, 1, 12, None)
    attempt_of(run, 9, 20, 1)  # killed after 12, resumed at 8
    ids, steps = fed(run)
    assert ids == {wandb_feed.run_id(run)}
    assert steps == list(range(1, 21))


def test_a_branch_is_at_wandb_with_its_trunk_in_its_group_and_notes(run: RunFolder) -> None:
    told = claim(run, run.current_config())
    told.begin(0, None)
    for step in (1, 2):
        Tracker(told.path).write(replace(STEP, step=step))
    told.close()
    trunk = Trunk("/runs/b", 2, 1, Trunk("/runs/first", 1, 1))
    branched = claim(run, run.current_config())
    branched.record("branch", step=2, parent=1, trunk=trunk.to_json())
    branched.close()
    attempt_of(run, 3, 4, 1, "offline", "optimizer.lr=1e-3")
    assert fed(run) == ({wandb_feed.run_id(run)}, [1, 2, 3, 4])
    (about, *_) = [record.run for record in offline_records(run) if record.HasField("run")]
    assert about.run_group == "first"
    assert about.notes == "branched from /runs/b at step 2, which branched from /runs/first at step 1"


def test_wandb_gets_a_rewound_run_from_the_beginning_under_a_new_id(run: RunFolder) -> None:
    attempt_of(run, 1, 12, None)
    attempt_of(run, 6, 9, 1, "offline", "optimizer.lr=1e-3")
    attempt_of(run, 8, 14, 2)  # a restart of the rewound run
    first = wandb_feed.run_id(run)
    assert fed_by_id(run) == {first: list(range(1, 13)), f"{first}-2": list(range(1, 15))}


def test_a_history_goes_on_at_wandb_unless_other_weights_came_of_it(run: RunFolder) -> None:
    def number(first: int, last: int, parent: int | None, *edits: str) -> int:
        attempt = claim(run, run_config.edit(run.current_config(), edits))
        attempt.begin(first - 1, parent)
        for step in range(first, last + 1):
            Tracker(attempt.path).write(replace(STEP, step=step, attempt=attempt.number))
        attempt.close()
        return wandb_feed.history_number(run)

    assert number(1, 8, None) == 1
    assert number(5, 7, 1) == 1, "after a crash"
    assert number(5, 10, 1, "layout.micro_batch=2", "wandb.mode=online") == 1, "after two, on another machine"
    assert number(11, 20, 3, "optimizer.lr=1e-3") == 1, "an edit where the run had stopped"
    assert number(16, 25, 4, "steps=40", "optimizer.lr=1e-4") == 2, (
        "an edit with steps that wandb has otherwise"
    )
    assert number(21, 21, 4) == 3, "a future that was abandoned, taken up again"
    assert number(22, 30, 6) == 3


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()
    for connection in kept:
        connection.close()


def test_a_server_that_never_answers_costs_a_bounded_farewell(
    run: RunFolder, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    begin = time.monotonic()
    farewell = attempt_of(run, 1, 5, None, mode="online")
    assert farewell < wandb_feed.FAREWELL_SECONDS + 3
    assert time.monotonic() - begin - farewell < 3
    assert "headrace wandb RUN" in (run.attempt_path(1) / "wandb.log").read_text()
    assert len(list(read_lines(run.attempt_path(1) / "metrics.jsonl"))) == 7
    for path in run.path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_without_a_key_online_is_offline(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    attempt_of(run, 1, 3, None, mode="online")
    assert "no key, so offline" in (run.attempt_path(1) / "wandb.log").read_text()
    assert fed(run)[1] == [1, 2, 3]
    with pytest.raises(BadInput, match="wandb: no key; set WANDB_API_KEY"):
        wandb_feed.sync(run)


def test_the_feeder_ends_with_a_killed_training_process(run: RunFolder) -> None:
    script = """
import sys, time
from pathlib import Path
from launcher.runs.run_folder import claim, open_run
from launcher.tracking.wandb_feed import Feed
run = open_run(sys.argv[1])
attempt = claim(run, run.current_config())
attempt.begin(0, None)
feed = Feed(run, attempt.number, attempt.path / "wandb.log")
print(feed._process.pid, flush=True)
time.sleep(60)
"""
    trainer = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    feeder = int(trainer.stdout.readline())
    time.sleep(1)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    deadline = time.monotonic() + wandb_feed.FAREWELL_SECONDS + 10
    while Path(f"/proc/{feeder}/exe").exists() and os.path.isdir(f"/proc/{feeder}"):
        try:
            os.readlink(f"/proc/{feeder}/exe")
        except OSError:
            break  # a zombie that nobody waits for
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_disk_that_refuses_a_line_is_told(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"metrics\.jsonl: cannot be written: No such file"):
        tracker.write(STEP)


def test_logs_that_are_synced_are_on_the_disk_with_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []

    def noted(file: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{file}"), os.fstat(file).st_size))

    monkeypatch.setattr(os, "fsync", noted)
    tracker, log = Tracker(tmp_path), OpeningsLog(tmp_path / "openings.bin")
    tracker.write(STEP)
    log(Opening(0, 0, 0, 0, 0, 10))
    assert synced == []
    tracker.sync()
    log.sync()
    folder = (str(tmp_path), tmp_path.stat().st_size)
    metrics = tmp_path / "metrics.jsonl"
    assert synced == [
        (str(metrics), metrics.stat().st_size),
        folder,
        (str(tmp_path / "openings.bin"), 32),
        folder,
    ]
    monkeypatch.setattr(os, "fsync", refuse_to_sync)
    for one, name in ((tracker, "metrics.jsonl"), (log, "openings.bin")):
        with pytest.raises(BadInput, match=rf"{name}: cannot be written: Input/output error"):
            one.sync()


def test_plain_console_is_no_terminal() -> None:
    assert isinstance(watch(io.StringIO(), "r", 1, 1), PlainConsole)
