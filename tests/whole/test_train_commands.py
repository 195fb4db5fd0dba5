"""Starting and stopping as users do it: real commands, whoever starts the processes, and starts that are
refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.config.yaml_reader import dump_yaml
from launcher.reporting.next_command import resume_command
from launcher.runs.run_folder import open_run
from tests.support.helpers import TrainingText
from tests.support.sources import ROOT
from tests.support.training import assert_same_run, begin, begun, config, last_step, told, train

BIN = Path(sys.executable).parent
HEADRACE = [sys.executable, "-m", "launcher.cli"]
CLUSTER = re.compile(r"^(SLURM_|MASTER_|RANK$|LOCAL_RANK$|WORLD_SIZE$)")


def spawn(command: Sequence[str], **variables: str) -> subprocess.Popen[str]:
    """A command under way, in a group of its own, its output kept."""
    plain = {name: value for name, value in os.environ.items() if not CLUSTER.match(name)}
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        env=plain | quiet | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """What it printed, once it has ended with this exit code."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return out, err


def wait_for(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run has told this step."""
    end = time.monotonic() + 90
    while last_step(folder) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def write(plain: Mapping[str, Any], folder: Path) -> Path:
    """The config as a file."""
    path = folder / "config.yaml"
    path.write_text(dump_yaml(dict(plain)))
    return path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.faults
def test_stopped_by_ctrl_c_under_headrace_then_srun_then_finished_by_torchrun(
    text: TrainingText, straight: Path, tmp_path: Path
) -> None:
    """Three ways to start, one run: equal to the undisturbed one bit for bit."""
    file = write(config(text, tmp_path), tmp_path)
    train_it = [*HEADRACE, "train", str(file)]

    process = spawn([*train_it, "--processes", "2"])
    wait_for(tmp_path, 3, process)
    process.send_signal(signal.SIGQUIT)
    wait_for(tmp_path, 6, process)
    process.send_signal(signal.SIGINT)
    _, err = ended(process, 75)
    for rank in range(2):
        log = (tmp_path / "run" / "attempts" / "0001" / f"rank-{rank:04d}.log").read_text()
        assert "most recent call first" in log
        assert "launcher/training/loop.py" in log, "the stacks of a run that goes on"
    assert "Traceback" not in err
    assert resume_command(open_run(tmp_path / "run"), "steps=99") == (
        f"headrace resume {tmp_path}/run steps=99 --processes 2"
    )

    job = {"SLURM_JOB_ID": "31", "SLURM_NTASKS": "2", "SLURM_NODELIST": "localhost"}
    tasks = [
        spawn(
            train_it,
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            SLURM_STEP_ID="0",
            GLOO_SOCKET_IFNAME="lo",
            **job,
        )
        for rank in range(2)
    ]
    wait_for(tmp_path, last_step(tmp_path) + 3, tasks[0])
    tasks[1].send_signal(signal.SIGTERM)
    for task in tasks:
        ended(task, 75)

    torchrun = [f"{BIN}/torchrun", "--no-python", "--nproc-per-node", "2", "--standalone"]
    out, _ = ended(spawn([*torchrun, *train_it]), 0)
    assert "headrace generate" in out
    assert_same_run(tmp_path, straight)
    starts = [line for line in open_run(tmp_path / "run").ledger() if line["event"] in ("start", "resume")]
    assert len(starts) == 3
    assert resume_command(open_run(tmp_path / "run")) == f"headrace resume {tmp_path}/run"


def processes_of(process: subprocess.Popen[str], ranks: int) -> list[int]:
    """Those that train, once they are there: the ranks of --processes, or the command itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while ranks > 1 and len(children.read_text().split()) < ranks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    return [int(pid) for pid in children.read_text().split()] if ranks > 1 else [process.pid]


def importing_torch(process: subprocess.Popen[str], ranks: int) -> None:
    """Returns once its library is in the memory of all that train: the import takes seconds."""
    for pid in processes_of(process, ranks):
        while "libtorch_cpu" not in Path(f"/proc/{pid}/maps").read_text():
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)


@pytest.mark.parametrize(
    ("ranks", "number", "moment"),
    [
        (1, signal.SIGTERM, importing_torch),
        (1, signal.SIGINT, importing_torch),
        (2, signal.SIGTERM, importing_torch),
        (2, signal.SIGINT, processes_of),
        (2, signal.SIGUSR2, processes_of),
    ],
)
def test_stopped_before_anything_has_begun(
    text: TrainingText, tmp_path: Path, ranks: int, number: int, moment: Callable
) -> None:
    """The signal ends it at once, with the code that the shell and slurm/train.sbatch know it by, and nothing
    is left. processes_of: the ranks are forked, and no line of them has run."""
    file = write(config(text, tmp_path), tmp_path)
    process = spawn([*HEADRACE, "train", str(file), *(["--processes", str(ranks)] if ranks > 1 else [])])
    moment(process, ranks)
    begin = time.monotonic()
    process.send_signal(number)
    # Popen has a code of its own for a process that a signal ended: for a shell both are 128 + number.
    assert ended(process, -number if ranks == 1 else 128 + number) == ("", "")
    assert time.monotonic() - begin < 20, "imports may be slow, but nobody waits for a rank that has left"
    assert not (tmp_path / "run").exists()


def test_stopped_while_it_waits_for_another_rank(text: TrainingText, tmp_path: Path) -> None:
    """The wait goes on inside C for ten minutes."""
    file = write(config(text, tmp_path), tmp_path)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    process = spawn([*HEADRACE, "train", str(file)], MASTER_PORT=str(port), **ranks)
    while True:
        assert process.poll() is None, process.communicate()
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = ended(process, -signal.SIGTERM)
    assert "Traceback" not in err
    assert time.monotonic() - begin < 5


@pytest.mark.full
def test_under_the_launcher_of_deepspeed(text: TrainingText, tmp_path: Path) -> None:
    file = write(config(text, tmp_path, steps=3), tmp_path)
    command = [f"{BIN}/deepspeed", "--num_gpus", "2", "--no_local_rank", "--no_python", *HEADRACE]
    ended(spawn([*command, "train", str(file)], DS_ACCELERATOR="cpu"), 0)
    assert len(told(tmp_path)) == 3


def test_the_same_command_again_changes_nothing(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, steps=3)
    train(2, plain, fresh=True)
    before = contents(tmp_path)
    left = train(2, plain, fresh=True)
    assert contents(tmp_path) == before
    assert "is complete" in left[0].said
    assert left[1].said == ""
    assert not left[0].rows


def test_another_config_is_refused_with_its_keys(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, steps=3)
    train(1, plain, fresh=True)
    before = contents(tmp_path)
    other = plain | {"seed": 2, "optimizer": plain["optimizer"] | {"lr": 3e-3}}
    left = train(2, other, code=2, fresh=True)
    lines = [one.line for one in left if one.line is not None]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "exists with another config (seed: 1, now 2; optimizer.lr: 0.01, now 0.003). " in lines[0]
    assert contents(tmp_path) == before


@pytest.mark.faults
def test_a_second_writer_is_refused_and_the_first_goes_on(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, steps=100_000)
    running = begin(2, plain)
    begun(tmp_path, 2, running)
    _, err = ended(spawn([*HEADRACE, "train", str(write(plain, tmp_path))]), 2)
    assert err.count("\n") == 1
    assert "is being written by attempt 1, process " in err
    begun(tmp_path, last_step(tmp_path) + 2, running)
    os.kill(running.pids[0], signal.SIGTERM)
    assert [left.code for left in running.wait()] == [75, 75]
    assert open_run(tmp_path / "run").attempts() == [1]


@pytest.mark.faults
def test_a_fenced_writer_publishes_nothing_more(text: TrainingText, tmp_path: Path) -> None:
    """A second attempt that began although the first is alive, as on a file system without common locks."""
    plain = config(text, tmp_path, steps=100_000)
    running = begin(2, plain)
    begun(tmp_path, 6, running)
    newer = tmp_path / "run" / "attempts" / "0002"
    newer.mkdir()
    (newer / "ledger.jsonl").write_text(json.dumps({"event": "start", "step": 0, "parent": None}) + "\n")
    time.sleep(0.1)  # a save that had been allowed already may end
    names = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-????????")}
    left = running.wait()
    assert [one.code for one in left] == [2, 2]
    lines = [one.line for one in left if one.line is not None]
    assert len(lines) == 1
    assert "attempt 1 is no longer the newest of its run" in lines[0]
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")} == names
