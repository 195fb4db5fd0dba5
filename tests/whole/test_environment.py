"""An environment that lacks what most have: a home, rights, a working folder, names beyond ASCII.

What a command does not need it does not ask for; else there is one line. Files follow the umask, so that a
group can share a run.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.system_errors import line_of
from launcher.config.yaml_reader import dump_yaml
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.sources import ROOT
from tests.support.training import config

OTHER = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
READING = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""It may read all, as a group may; the interpreter can lie in another user's home."""
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)


def stranger(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    """`headrace …` as a user without a passwd entry, a home, or rights here: code, stdout, stderr."""
    plain = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        [*OTHER, *READING, sys.executable, "-m", "launcher.cli", *map(str, arguments)],
        env=plain | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def written(text: TrainingText, tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(config(text, tmp_path / "runs", steps=2)))
    return file


@as_root
def test_neither_home_nor_passwd_entry(written: Path, tmp_path: Path) -> None:
    """Local shards need no cache, and so no folder for it."""
    (tmp_path / "runs").mkdir(mode=0o777)
    (tmp_path / "runs").chmod(0o777)
    code, out, err = stranger("check", written, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "whole run" in out


@as_root
def test_check_says_before_the_job_is_queued_that_the_folder_cannot_be_written(
    written: Path, tmp_path: Path
) -> None:
    for made in (tmp_path, tmp_path / "runs"):  # where it would be made, and where it is
        made.mkdir(exist_ok=True)
        code, _, err = stranger("check", written, cwd=tmp_path)
        assert code == 2
        assert err.startswith(f"headrace: run.folder: {made}: cannot be written: Permission denied"), err
        assert err.count("\n") == 1


@pytest.mark.faults
@as_root
def test_a_run_of_another_user(written: Path, tmp_path: Path) -> None:
    """Made under umask 002 it is the group's; what the rights do not give is one line."""
    before = os.umask(0o002)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "launcher.cli", "train", str(written)], cwd=ROOT, capture_output=True
        )
    finally:
        os.umask(before)
    assert done.returncode == 0
    run = tmp_path / "runs" / "run"
    for path in run.rglob("*"):
        wanted = 0o775 if path.is_dir() else 0o664
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    code, _, err = stranger("resume", run, "steps=4", "--dry-run", cwd=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "attempts: cannot be written: Permission denied" in err
    assert stranger("status", run, cwd=tmp_path)[0] == 0


def test_what_the_system_refuses_is_a_line_and_no_bug() -> None:
    assert line_of(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied"
    assert line_of(OSError(28, "No space left on device")) == "No space left on device"
    assert line_of(FileNotFoundError(2, "No such file or directory", "/x")) is None


def test_a_working_folder_that_is_gone(written: Path, tmp_path: Path) -> None:
    def inside(line: str) -> tuple[int, str]:
        gone = tmp_path / "gone"
        gone.mkdir()
        done = subprocess.run(
            ["bash", "-c", f"cd {gone}; rmdir {gone}; {sys.executable} -m launcher.cli {line}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    line = "headrace: the working folder is gone; cd to one that exists\n"
    assert inside("--version") == (0, "")
    assert inside(f"check {written}") == (0, "")
    assert inside("status runs/run") == (2, line)
    assert inside(f"train {written}") == (2, line)


def test_no_home_where_one_is_needed(written: Path, tmp_path: Path, headrace: Commands) -> None:
    line = headrace.refused("check", written, "run.folder=~nobody-of-this-name/runs")
    assert "~nobody-of-this-name stands for no folder here" in line


def test_names_beyond_ascii_in_a_locale_of_ascii(written: Path, tmp_path: Path) -> None:
    """Python takes C for UTF-8 unless it is told not to; then it is one line."""

    def check(**variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "launcher.cli", "check", str(written), f"run.folder={tmp_path}/kü ×"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", **variables},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    assert check() == (0, "")
    assert check(PYTHONIOENCODING="ascii") == (0, "")
    code, err = check(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code in (0, 2)
    assert "Traceback" not in err


def test_a_disk_that_is_full_is_one_line_to_the_interpreters_end(tmp_path: Path) -> None:
    """A file that is left open would try again as it is collected, and print an error that nobody catches."""
    (tmp_path / "x.txt").write_text("".join(f"{number * 7919 % 10007}\n" for number in range(2000)))
    command = f"{sys.executable} -m launcher.cli data pack x.txt --zstd --out p"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; {command}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "ignore"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "headrace: p: cannot be written: File too large\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]
