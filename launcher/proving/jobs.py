"""Runs of the proof, each in processes of its own that can be killed with signal 9 like any others.

    Job(name, processes, tasks) ──▶ FOLDER/job.json ──▶ N ranks: rank.py does the tasks, one after the other
                                    FOLDER/result-NNNN.json, written anew after each task ◀──┘

Starting an interpreter and its imports is most of a small run, so what can share processes does. What starts
the ranks stands behind Ranks: here it is local_launch.launch, in a process between that the ranks die with.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from launcher.distributed.local_launch import die_with_parent, launch
from launcher.distributed.respawn import command


@dataclass(frozen=True)
class Job:
    """Some tasks for some ranks."""

    name: str
    label: str
    """What is done, for people."""
    processes: int
    tasks: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Put it into a folder of its own under `folder`, which is returned."""
        own = folder / self.name
        own.mkdir(parents=True)
        (own / "job.json").write_text(json.dumps(asdict(self)))
        return own


class RunningJob(Protocol):
    """A job under way."""

    def ended(self) -> bool:
        """No rank is left."""

    def kill(self) -> None:
        """Signal 9 to every rank (Linux); none computes any more when it returns."""

    def wait(self) -> str | None:
        """How it failed, in a line; None where all ranks ended well."""


class Ranks(Protocol):
    """Who starts ranks."""

    def start(self, folder: Path, processes: int) -> RunningJob:
        """Begin rank.work on the job in a folder, in so many processes."""


@dataclass
class LocalRanks:
    """Ranks of this machine."""

    gpu: bool
    """They see its GPUs."""
    most: int
    """Of the largest job: each rank of any has the threads that one of these has."""

    def start(self, folder: Path, processes: int) -> "_Launched":
        """As `headrace train --processes N` starts them."""
        own = folder.parent / "tmp"  # what ranks that are killed cannot remove goes with the proof's folder
        own.mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(own)}
        if not self.gpu:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        threads = max(1, len(os.sched_getaffinity(0)) // self.most)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        with open(folder / "output.txt", "wb") as output:
            process = subprocess.Popen(
                command("launcher.proving.jobs", str(folder), str(processes)),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(os.getpid()),
            )
        return _Launched(process, folder / "output.txt")


@dataclass
class _Launched:
    process: subprocess.Popen
    output: Path

    def ended(self) -> bool:
        """The process between has seen all of them end."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Of the process between, and with it of the ranks."""
        self.process.kill()  # its ranks are killed with it: local_launch.die_with_parent
        self.process.wait()

    def wait(self) -> str | None:
        """The line is the ranks' own where they printed one."""
        code = self.process.wait()
        if code == 0:
            return None
        return f"the ranks ended with code {code}: {cause_of(self.output.read_text(errors='replace'))}"


def cause_of(output: str) -> str:
    """The line that says why ranks ended: the last error, and of several not one that a peer had gone."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed|Mismatch|Lost)\b", line)]
    own = [line for line in errors if "gloo" not in line and "Connection" not in line and "NCCL" not in line]
    return next((found[-1] for found in (own, errors, lines) if found), "without a word")


def main() -> None:
    """The process between: FOLDER N."""
    folder, processes = sys.argv[1:]
    sys.exit(launch(int(processes), command("launcher.proving.rank", folder)))


def results(folder: Path, name: str, task: str) -> list[dict[str, Any]]:
    """What each rank of a job found in a task; fewer than ranks, or none, where it was not ended."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / name).glob("result-*.json")):
        value: Mapping[str, Any] = json.loads(path.read_text())
        if task in value:
            found.append(value[task])
    return found
