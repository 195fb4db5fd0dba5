"""A console that cannot be written: a run goes on and says so where it can; a command that prints ends."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.durable import read_lines
from launcher.config.yaml_reader import dump_yaml
from launcher.runs.run_folder import open_run
from tests.support.helpers import TrainingText
from tests.support.sources import ROOT
from tests.support.training import config

COMMAND = f"{sys.executable} -m launcher.cli"
NO_SPACE = "headrace: standard output: cannot be written: No space left on device\n"


def shell(line: str, **variables: str) -> subprocess.CompletedProcess:
    """A line of bash, in which $headrace is the command."""
    return subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "PYTHONPATH": str(ROOT), "headrace": COMMAND, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("$headrace --help > /dev/full", 2, NO_SPACE),
        ("$headrace --version > /dev/full 2> /dev/full", 2, ""),
        ("$headrace --version >&-", 2, NO_SPACE.replace("No space left on device", "Bad file descriptor")),
        ("$headrace --help | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("$headrace status nowhere 2> /dev/full", 2, ""),
        ("$headrace --version 2>&- <&-", 0, ""),
    ],
)
def test_a_command_that_prints(line: str, code: int, err: str) -> None:
    done = shell(line, PYTHONDEVMODE="1")  # which tells what an interpreter's end would hide
    assert (done.returncode, done.stderr) == (code, err)


def test_a_run_does_not_depend_on_its_console(text: TrainingText, tmp_path: Path) -> None:
    """Nor does a descriptor that was closed become that of a shard or a checkpoint."""
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(config(text, tmp_path, steps=3)))
    done = shell(f"$headrace train {file} --processes 2 > /dev/full 2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    run = open_run(tmp_path / "run")
    told = [line for line in run.ledger() if line["event"] == "console"]
    (noted,) = [line for line in told if line["stream"] == "stdout"]  # a slow machine has warnings for stderr
    assert (noted["rank"], noted["stream"], noted["error"]) == (0, "stdout", "No space left on device")
    logged = (run.attempt_path(1) / "rank-0000.log").read_text()
    assert logged.count("stdout: cannot be written: No space left on device; the run goes on") == 1
    assert [line["step"] for line in read_lines(run.attempt_path(1) / "metrics.jsonl", "loss")] == [1, 2, 3]


LIVE = """
import os, sys
from dataclasses import replace
from pathlib import Path
from launcher.standard_streams import text_stream
from launcher.tracking.console import watch
from launcher.tracking.tracker import Tracker
from tests.launcher.test_tracking import STEP
lost = []
terminal = text_stream(1, lost.append, like=sys.stdout)
tracker = Tracker(Path(sys.argv[1]), [watch(terminal, "my-run", steps=40, every=1000)])
tracker.note("ready")
sys.stdin.readline()
for step in range(1, 21):
    tracker.write(replace(STEP, step=step))
    tracker.note("still here")
tracker.close()
print(len(lost), lost[0], file=sys.stderr)
"""


def test_a_terminal_that_is_gone(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as nohup does
    )
    os.close(terminal)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(main, 65536)
    os.close(main)
    _, err = process.communicate("\n", timeout=60)
    assert (process.returncode, err) == (0, "1 [Errno 5] Input/output error\n")


def test_json_is_right_in_any_encoding() -> None:
    line = "from launcher.standard_streams import install; install(); "
    line += "from launcher.output import say_json; say_json({'name': 'café ×'})"
    done = shell(f'{sys.executable} -c "{line}"', PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout) == {"name": "café ×"}
