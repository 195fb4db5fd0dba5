"""A run's folder under real processes: one live writer, nothing left of a dead one, the newest publishes."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data.durable import append, read_lines
from data.errors import BadInput
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.reporting.next_command import further_command, resume_command
from launcher.runs.lineage import merged, steps
from launcher.runs.run_folder import RunFolder, claim, going_on, open_run, start
from launcher.runs.writer_lock import Writer, live
from tests.support.commands import Commands

CONFIG = """\
run: {name: r, folder: FOLDER/runs}
steps: 20
sequence_length: 128
batch_rows: 8
tokenizer: {model: FOLDER/tok.model}
data: {corpora: {code: {shards: FOLDER/code-*.tar}}}
objectives: {causal: {}}
model: {layers: 2, width: 64, heads: 4}
optimizer: {}
"""

CLAIM = """
import sys, time
from launcher.config import run_config
from launcher.runs.run_folder import claim, start
from data.durable import append
from data.errors import BadInput
folder, config = start(run_config.load(sys.argv[1]))
try:
    attempt = claim(folder, config, watch_seconds=1, beat_seconds=0.1)
except BadInput as error:
    print("refused", error, flush=True)
else:
    attempt.begin(0, None)
    print("attempt", attempt.number, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tok.model").write_bytes(b"pieces")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    return path


def claiming(file: Path, seconds: float) -> subprocess.Popen:
    """Another process that claims the run and holds it."""
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(file), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def begun(file: Path, step: int, parent: int | None, *overrides: str) -> tuple[RunFolder, int]:
    """One attempt from claim to close, with its number."""
    folder, _ = start(run_config.load(file))
    config: Config = run_config.load(file, overrides)
    attempt = claim(folder, config)
    attempt.begin(step, parent)
    attempt.close()
    return folder, attempt.number


def test_a_live_writer_is_named_and_a_dead_one_is_no_hindrance(file: Path) -> None:
    holder = claiming(file, 60)
    assert first_line(holder) == "attempt 1"
    folder, config = start(run_config.load(file))
    with pytest.raises(BadInput, match=rf"is being written by attempt 1, process {holder.pid} on "):
        claim(folder, config)
    assert folder.attempts() == [1]
    assert f"process {holder.pid}" in str(folder.writer())

    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(BadInput, match=f"process {holder.pid} on"):
        claim(folder, config)

    holder.kill()
    holder.wait()
    assert folder.writer() is None
    attempt = claim(folder, config)
    assert attempt.number == 2
    attempt.close()


def test_a_forked_child_does_not_hold_the_run_beyond_its_parents_death(file: Path, tmp_path: Path) -> None:
    script = CLAIM + textwrap.dedent("""
        import os
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
        time.sleep(60)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(file), "0"], stdout=subprocess.PIPE, text=True
    )
    assert first_line(parent) == "attempt 1"
    child = int(first_line(parent))
    try:
        parent.kill()
        parent.wait()
        assert open_run(tmp_path / "runs" / "r").writer() is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_many_starts_at_the_same_moment_one_goes_on(file: Path) -> None:
    starts = [claiming(file, 15) for _ in range(5)]
    try:
        lines = [first_line(process) for process in starts]
        assert sum(line.startswith("attempt") for line in lines) == 1
        assert sum("is being written by attempt" in line for line in lines) == 4
        folder, _ = start(run_config.load(file))
        assert len(folder.attempts()) == 1
        assert [entry.name for entry in (folder.path / "attempts").iterdir()] == [
            f"{folder.attempts()[0]:04d}"
        ]
    finally:
        for process in starts:
            process.kill()
            process.wait()


def test_a_writer_on_another_host_is_told_by_its_heartbeat(tmp_path: Path) -> None:
    """The lock of another host may be invisible here; only the count in the file moves."""
    path = tmp_path / "writer.json"
    content = {"host": "elsewhere", "pid": 7, "beats": 0, "closed": False}
    path.write_text(json.dumps(content))
    assert live(path, watch_seconds=0.5) is None

    beating = multiprocessing.get_context("spawn").Process(target=_beat, args=(path, content), daemon=True)
    beating.start()
    try:
        deadline = time.monotonic() + 20
        while live(path, watch_seconds=1) is None:
            assert time.monotonic() < deadline
        assert str(live(path, watch_seconds=1)) == "process 7 on elsewhere"
    finally:
        beating.kill()
        beating.join()
    path.write_text(json.dumps(content | {"closed": True}))
    begin = time.monotonic()
    assert live(path, watch_seconds=30) is None
    assert time.monotonic() - begin < 5


def _beat(path: Path, content: dict) -> None:
    for beats in range(10_000):
        path.write_text(json.dumps(content | {"beats": beats}))
        time.sleep(0.05)


def test_the_heartbeat_counts_and_stops(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "writer.json", beat_seconds=0.05)
    time.sleep(0.5)
    assert str(os.getpid()) in str(live(tmp_path / "writer.json"))
    assert json.loads((tmp_path / "writer.json").read_text())["beats"] >= 3
    writer.close()
    writer.close()
    assert json.loads((tmp_path / "writer.json").read_text())["closed"]
    assert live(tmp_path / "writer.json") is None


def test_the_heartbeat_survives_a_disk_that_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "writer.json"
    writer = Writer(path, beat_seconds=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_to_sync)
        time.sleep(0.3)
    missed, end = json.loads(path.read_text())["beats"], time.monotonic() + 20
    while json.loads(path.read_text())["beats"] <= missed:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert [record.getMessage() for record in caplog.records] == [
        "writer.json: cannot be written for now: Input/output error"
    ]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_to_sync)
        writer.close()
    assert live(path) is None


def refuse_to_sync(_file: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_only_the_newest_started_attempt_may_publish(file: Path) -> None:
    folder, config = start(run_config.load(file))
    stale = claim(folder, config)
    stale.begin(0, None)
    assert stale.may_publish()
    stale.close()  # as a writer that another host believes dead
    newer = claim(folder, config)
    assert stale.may_publish()  # the newer one has not begun: it may yet give way
    newer.begin(5, 1)
    assert newer.may_publish()
    assert not stale.may_publish()
    newer.close()


def test_the_same_config_goes_on_and_another_is_refused_with_its_keys(file: Path) -> None:
    folder, number = begun(file, 0, None)
    assert number == 1
    assert begun(file, 3, 1)[1] == 2
    assert folder.tokenizer.read_bytes() == b"pieces"
    with pytest.raises(BadInput) as caught:
        start(run_config.load(file, ["steps=30", "optimizer.lr=1e-3"]))
    text = str(caught.value)
    assert "steps: 20, now 30" in text
    assert "optimizer.lr: 0.0003, now 0.001" in text
    assert "headrace resume" in text

    # A resume with edits is another verb; after it the config as first started goes on with the edits.
    begun(file, 4, 2, "optimizer.lr=1e-3")
    assert start(run_config.load(file))[1].optimizer.lr == 1e-3
    assert start(run_config.load(file, ["optimizer.lr=1e-3"]))[1].optimizer.lr == 1e-3
    assert folder.first_config().optimizer.lr == 3e-4


def test_keys_that_only_watch_may_differ_from_start_to_start_and_are_recorded(file: Path) -> None:
    folder, _ = begun(file, 0, None, "optimizer.lr=1e-3")  # a resume's edit, which stays in force
    watching = ["log.every=3", "data.memory_mib=64", "fingerprint=true", "wandb.mode=disabled"]
    config = start(run_config.load(file, watching))[1]
    assert config == run_config.load(file, [*watching, "optimizer.lr=1e-3"])
    assert going_on(run_config.load(file, watching)) == (folder, config)
    attempt = claim(folder, config)
    attempt.begin(3, 1)
    attempt.close()
    first, second = folder.ledger()
    assert first["changed"] == {"optimizer.lr": [0.0003, 0.001]}
    assert second["event"] == "resume"
    assert second["changed"] == {
        "data.memory_mib": [512, 64],
        "wandb.mode": ["offline", "disabled"],
        "fingerprint": [False, True],
        "log.every": [10, 3],
    }
    # What is not said of them is as always, and not as the start before had it.
    assert start(run_config.load(file))[1] == run_config.load(file, ["optimizer.lr=1e-3"])
    with pytest.raises(BadInput, match=r"with another config \(steps: 20, now 30\)\. Begin"):
        start(run_config.load(file, ["steps=30", "optimizer.lr=1e-3", *watching]))


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("data.on_bad.budget=9", "data.on_bad.budget: 100, now 9"),
        ("checkpoint.keep=3", "checkpoint.keep: 2, now 3"),
        ("layout.micro_batch=4", "layout.micro_batch: 8, now 4"),
        ("eval.bytes=9", "eval.bytes: 262144, now 9"),
        ("model.loss_chunk=9", "model.loss_chunk: 512, now 9"),
        (
            "data.corpora.prose={shards: p.tar}",
            r"data\.corpora\.prose\.shards: absent, now .*/p\.tar.*; and 5 more",
        ),
    ],
)
def test_whatever_does_more_than_watch_is_another_config(file: Path, edit: str, line: str) -> None:
    begun(file, 0, None)
    with pytest.raises(BadInput, match=rf"another config \({line}\)\. Begin a new run"):
        start(run_config.load(file, [edit, "log.every=3"]))


def test_a_run_of_an_older_headrace_is_refused_with_what_to_do(file: Path, headrace: Commands) -> None:
    """Whichever of its configs is read, by whichever way."""
    folder, _ = begun(file, 0, None)
    kept = folder.attempt_path(1) / "config.yaml"
    new = kept.read_text()
    kept.write_text(new.replace("mlp_width:", "hidden:").replace("grad_clip:", "clip:"))
    number = 1 + kept.read_text().splitlines().index("  hidden: null")
    asked = (lambda: start(run_config.load(file)), folder.current_config, lambda: folder.attempt_config(1))
    for ask in asked:
        with pytest.raises(BadInput) as caught:
            ask()
        assert str(caught.value) == (
            f"{kept}:{number}: model.hidden: is called model.mlp_width now (and 1 more); this run was "
            "written by an older headrace: begin a new run, or go on with the headrace that began it"
        )
    for command in (["train", file], ["check", file], ["resume", folder.path], ["status", folder.path]):
        assert "; this run was written by an older headrace: begin" in headrace.refused(*command)
    folder.config_file.write_text(kept.read_text())
    kept.write_text(new)
    with pytest.raises(BadInput, match=rf"{folder.config_file}:\d+: .*; this run was written by an older"):
        start(run_config.load(file, ["steps=9"]))


def test_what_to_type_to_go_on_is_what_the_newest_attempt_was_given(file: Path) -> None:
    folder, config = start(run_config.load(file))
    assert resume_command(folder) == f"headrace resume {folder.path}"
    for processes, words in ((4, " steps=40 --processes 4"), (None, " steps=40")):
        attempt = claim(folder, config)
        attempt.begin(0, None, processes=processes)
        attempt.close()
        assert further_command(folder) == f"headrace resume {folder.path}{words}"


def test_a_place_that_takes_no_run_is_refused_in_one_line(file: Path) -> None:
    with pytest.raises(BadInput, match=r"^/proc/runs/r: cannot be written: "):
        start(run_config.load(file, ["run.folder=/proc/runs"]))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected the folder of a run"):
        open_run(tmp_path)


def test_the_ledger_survives_kill_9_and_keeps_its_order(file: Path) -> None:
    holder = claiming(file, 60)
    assert first_line(holder) == "attempt 1"
    holder.kill()
    holder.wait()
    folder, config = start(run_config.load(file))
    attempt = claim(folder, config)
    attempt.begin(7, 1, reason="after kill -9")
    attempt.record("checkpoint", step=9)
    attempt.close()
    events = [(line["attempt"], line["event"]) for line in folder.ledger()]
    assert events == [(1, "start"), (2, "resume"), (2, "checkpoint")]


def test_an_unfinished_last_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append(path, '{"a": 1}')
    with path.open("a") as file:
        file.write('{"a": 2')
    assert list(read_lines(path)) == [{"a": 1}]
    append(path, '{"a": 3}')
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a": 2', '{"a": 3}'], "it is set off"


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk: the write comes back short."""
    path = tmp_path / "lines.jsonl"
    script = """
import resource, sys
from pathlib import Path
from data.durable import append
from data.errors import BadInput
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
path = Path(sys.argv[1])
append(path, "x" * 60)
try:
    append(path, "y" * 60)
except BadInput as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert "lines.jsonl: cannot be written: No space left on device" in done.stdout
    assert path.read_text() == "x" * 60 + "\n"


def write_steps(folder: RunFolder, attempt: int, first: int, last: int) -> None:
    path = folder.attempt_path(attempt) / "metrics.jsonl"
    for step in range(first, last + 1):
        append(path, json.dumps({"step": step, "attempt": attempt}), sync=False)


def seen(folder: RunFolder) -> list[tuple[int, int]]:
    return [(line["step"], line["attempt"]) for line in merged(folder)]


def test_metrics_are_read_along_the_lineage(file: Path) -> None:
    folder, _ = begun(file, 0, None)
    append(folder.attempt_path(1) / "metrics.jsonl", '{"step": 0, "attempt": 1, "eval": {}}')
    write_steps(folder, 1, 1, 17)
    assert seen(folder)[-1] == (17, 1)

    begun(file, 10, 1)  # killed at 17, resumed from the checkpoint at 10
    assert seen(folder)[-1] == (10, 1)
    write_steps(folder, 2, 11, 25)
    assert seen(folder) == [(s, 1) for s in range(11)] + [(s, 2) for s in range(11, 26)]

    begun(file, 5, 1)  # rewound: the future of attempt 2 is given up
    write_steps(folder, 3, 6, 8)
    assert seen(folder) == [(s, 1) for s in range(6)] + [(s, 3) for s in range(6, 9)]

    begun(file, 20, 2)  # and taken up again after all
    write_steps(folder, 4, 21, 21)
    assert seen(folder) == [(s, 1) for s in range(11)] + [(s, 2) for s in range(11, 21)] + [(21, 4)]
    assert [line["step"] for line in merged(folder, after=18)] == [19, 20, 21]
    assert len(list(steps(merged(folder)))) == 21


def test_an_attempt_that_never_began_is_not_seen(file: Path) -> None:
    folder, config = start(run_config.load(file))
    attempt = claim(folder, config)
    assert folder.attempts() == []
    assert list(merged(folder)) == []
    attempt.close()


@pytest.mark.parametrize("part", ["attempts", "checkpoints"])
def test_what_cannot_be_listed_is_not_taken_for_empty(file: Path, part: str) -> None:
    """A link to itself cannot, even by root; so it is of a folder whose permissions do not allow it."""
    config = run_config.load(file)
    folder, _ = start(config)
    (folder.path / part).rmdir()
    (folder.path / part).symlink_to(part)
    for look in (lambda: open_run(folder.path), lambda: going_on(config)):
        with pytest.raises(BadInput, match=f"/{part}: cannot be read: Too many levels of symbolic links"):
            look()
