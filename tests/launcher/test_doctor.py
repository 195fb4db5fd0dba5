"""The doctor tells what is wrong and whether it matters; here what is wrong is really so."""

import json
import os
import subprocess
import sys
from pathlib import Path


def doctor(*arguments: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_machine_that_works(tmp_path: Path) -> None:
    findings = json.loads(doctor("--json", "--folder", str(tmp_path / "runs")))
    by_name = {finding["name"]: finding for finding in findings}
    for name in (
        "python",
        "torch",
        "deepspeed",
        "sentencepiece",
        "cpu",
        "processes",
        "disk space",
        "disk locks",
    ):
        assert by_name[name]["severity"] == 0, by_name[name]
    assert "all-reduce at" in by_name["processes"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_work_is_told_with_a_remedy() -> None:
    """No such network interface; a folder that takes no files."""
    text = doctor("--folder", "/proc/1/runs", code=2, GLOO_SOCKET_IFNAME="nothere0")
    lines = text.splitlines()
    for name, remedy in (("processes", "GLOO_SOCKET_IFNAME=lo"), ("disk", "choose another run.folder")):
        at = next(number for number, line in enumerate(lines) if line.split()[1] == name)
        assert lines[at].startswith("FAILED")
        assert remedy in lines[at + 1]
