"""The doctor tells what is wrong and whether it matters; here what is wrong is really so."""

import json
import os
import subprocess
import sys
from pathlib import Path

from launcher.doctor import examine


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


def test_processes_that_cannot_meet_are_told_with_a_remedy() -> None:
    text = doctor(code=2, GLOO_SOCKET_IFNAME="nothere0")
    line = next(line for line in text.splitlines() if " processes " in line)
    assert line.startswith("FAILED")
    assert "GLOO_SOCKET_IFNAME" in text


def test_a_folder_that_takes_no_files_is_told() -> None:
    findings = {finding.name: finding for finding in examine("/proc/1/runs")}
    assert findings["disk"].severity == 2
    assert "choose another run.folder" in findings["disk"].remedy
