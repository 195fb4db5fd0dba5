"""slurm/train.sbatch as the batch shell runs it: when it asks Slurm to start the job again, when it must not.

Slurm's commands are stand-ins that write down how they were called; script, bash and signals are real. What
Slurm itself does with the job was tried by hand: slurm/README.md.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.sources import ROOT

pytestmark = pytest.mark.faults

SCRIPT = ROOT / "slurm" / "train.sbatch"
COMMANDS = {
    "headrace": "exit $CHECK",
    "srun": "/bin/sleep $SECONDS_SAVING; exit $CODE",
    "squeue": "[[ $(grep -c ^squeue calls) -gt $SILENT ]] && echo $STATE",
    "scontrol": "exit $REFUSED",
    "sleep": "",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the stand-ins, in which the script runs."""
    for name, body in COMMANDS.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/calls\n{body}\n')
        path.chmod(0o755)
    return tmp_path


def submitted(home: Path, **variables: object) -> subprocess.Popen[bytes]:
    """The batch shell of job 7 with two tasks of four CPUs, under way."""
    usual = {"CHECK": 0, "CODE": 75, "STATE": "RUNNING", "SECONDS_SAVING": 0, "SILENT": 0, "REFUSED": 0}
    job = {"SLURM_JOB_ID": 7, "SLURM_NTASKS": 2, "SLURM_CPUS_PER_TASK": 4}
    plain = {"PATH": f"{home}:{os.environ['PATH']}"}
    environment = plain | {name: str(value) for name, value in (job | usual | variables).items()}
    with (home / "log").open("w") as log:
        return subprocess.Popen(["bash", SCRIPT, "c.yaml", "seed=2"], cwd=home, env=environment, stdout=log)


def calls(home: Path) -> list[str]:
    """What was called, in order."""
    return (home / "calls").read_text().splitlines()


CHECK = "headrace check c.yaml seed=2 --processes 2"
SRUN = "srun --cpus-per-task=4 --kill-on-bad-exit=0 --wait=600 headrace train c.yaml seed=2"
REQUEUE = "scontrol requeue 7"
UNKNOWN = "squeue did not say whether Slurm is ending it"


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (75, "RUNNING", True),  # --signal, ahead of the time limit
        (75, "COMPLETING", False),  # scancel, preemption, scontrol requeue: Slurm's own affair
        (143, "RUNNING", True),  # TERM, USR2 or INT came before training had begun, and ended the task
        (143, "COMPLETING", False),
        (140, "RUNNING", True),
        (130, "RUNNING", True),
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (2, "RUNNING", False),
    ],
)
def test_only_a_job_that_slurm_does_not_end_itself_is_requeued(
    home: Path, code: int, state: str, again: bool
) -> None:
    assert submitted(home, CODE=code, STATE=state).wait(20) == code
    asked = [line for line in calls(home) if not line.startswith("squeue ")]
    assert asked == [CHECK, SRUN, *([REQUEUE] if again else [])]
    assert "NOT requeued" not in (home / "log").read_text()


@pytest.mark.parametrize(
    ("silent", "state", "refused", "asked", "told"),
    [
        (2, "RUNNING", 0, "squeue sleep squeue sleep squeue scontrol", ""),  # a controller that is busy
        (3, "RUNNING", 0, "squeue sleep squeue sleep squeue sleep", UNKNOWN),
        (0, "", 0, "squeue sleep squeue sleep squeue sleep", UNKNOWN),  # no error, and no answer
        (0, "RUNNING", 1, "squeue scontrol", "scontrol requeue failed"),
    ],
)
def test_slurm_is_asked_three_times_and_a_job_that_is_lost_is_told(
    home: Path, silent: int, state: str, refused: int, asked: str, told: str
) -> None:
    assert submitted(home, SILENT=silent, STATE=state, REFUSED=refused).wait(20) == 75
    assert [line.split()[0] for line in calls(home)[2:]] == asked.split()
    lines = (home / "log").read_text().splitlines()
    last = (
        f"headrace: job 7 was NOT requeued: {told}. To go on: scontrol requeue 7, or submit it again as "
        "before (train.sbatch c.yaml seed=2)"
    )
    assert (lines[-1] == last) == bool(told), lines


def test_the_shell_lives_on_until_the_step_has_saved(home: Path) -> None:
    """However often Slurm asks: twice where preemption has a grace."""
    shell = submitted(home, SECONDS_SAVING=2)
    end = time.monotonic() + 20
    while not (home / "calls").exists() or calls(home)[-1].split()[0] != "srun":
        assert time.monotonic() < end
        time.sleep(0.01)
    for _ in range(2):
        time.sleep(0.2)
        shell.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert shell.poll() is None
    assert shell.wait(20) == 75


def test_shards_out_of_reach_bring_the_job_back(home: Path) -> None:
    """Before training, as the check finds it: no task is taken."""
    assert submitted(home, CHECK=75).wait(20) == 75
    assert [line for line in calls(home) if not line.startswith("squeue ")] == [CHECK, REQUEUE]


def test_what_cannot_work_takes_no_task(home: Path) -> None:
    assert submitted(home, CHECK=2).wait(20) == 2
    assert calls(home) == [CHECK]
