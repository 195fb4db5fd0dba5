"""`headrace branch`: a new run that goes on from a checkpoint of another one, its trunk.

    trunk    1 ─────────── K ─────────── …            goes on, goes back, is deleted: the branch does not mind
                           │
    branch                 └── edits ──▶              many decays, many mixtures from one trunk

A branch begins where `headrace resume TRUNK --step K` would, with what that one would know. In its folder:

    config.yaml                      as the trunk went on after K, with the edits
    tokenizer.model                  a copy
    plan.jsonl                       the segments before K's row, and all skips of units known by now
    attempts/0001 …                  those of the trunk that led to K: config, ledger, metrics and openings,
                                     each up to K, under the trunk's numbers
    attempts/NNNN                    the branch's beginning: what it is a branch of; samples left out so far
    checkpoints/step-K/              hard links (share.py)

So every reader of runs reads a branch with no further thought, and nothing of the trunk is needed any more.
The folder is made under another name and appears complete; of the trunk nothing is written, so it may be
trained meanwhile.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.durable import folder_aside, read_lines, sync_folder, write_once, writing, written_aside
from data.errors import BadInput
from data.plan.history_file import read_history
from data.provenance.openings import read_openings
from launcher.checkpoint.catalog import newest
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import steps_in
from launcher.checkpoint.share import share
from launcher.config import run_config
from launcher.config.compare import changes
from launcher.config.require import require_same_run
from launcher.config.run_config import Config
from launcher.config.yaml_reader import dotted
from launcher.runs.lineage import Part, attempt_of, first_line, lineage, lineage_to
from launcher.runs.progress import Progress
from launcher.runs.resume_point import rewound, start_point
from launcher.runs.run_folder import RunFolder, exists
from launcher.runs.trunk import EVENT, Trunk, trunk_of


@dataclass(frozen=True)
class Fork:
    """A branch that is asked for: from where, and with which config. Nothing is made yet."""

    trunk: RunFolder
    stored: StoredCheckpoint
    passed_over: list[str]
    """A line for each newer checkpoint that is damaged."""
    before: Config
    """As the trunk went on after that step, but for the name of the run."""
    config: Config
    """The same with the edits."""
    complete: bool
    """It has all its steps already, unless they are raised."""


def fork(
    trunk: RunFolder, step: int | None, name: str, folder: Path | None, overrides: Sequence[str] = ()
) -> Fork:
    """What a branch would go on from (step None: the newest checkpoint), every byte of it read, and with
    which config. BadInput where there is no such checkpoint, or a resume would refuse the edits."""
    stored, passed_over = _chosen(trunk, step)
    parts = lineage(trunk)
    after = attempt_of(parts, stored.step + 1)
    if attempt_of(parts, stored.step) != stored.attempt or after is None:  # of a future that was given up
        after = stored.attempt
    plain = run_config.plain(trunk.attempt_config(after))
    plain["run"] = {"name": name, "folder": str(folder or trunk.path.parent)}
    before = run_config.build(plain, {("run", "name"): "--name", ("run", "folder"): "--folder"}, "the run")
    config = run_config.edit(before, overrides)
    if config.run != before.run:
        raise BadInput("run: a branch is named by --name and --folder; leave it out of the edits")
    _require_free(trunk, before.path)
    require_same_run(before, config)
    point = start_point(trunk, config, stored.step)
    return Fork(trunk, stored, passed_over, before, config, point.complete)


def make(planned: Fork) -> tuple[RunFolder, str | None]:
    """The folder of the branch, complete, and why its checkpoint had to be copied; None: it is linked."""
    path = planned.config.path
    with writing(path):
        with _aside(path) as partial:
            why = _fill(planned, RunFolder(partial))
            _require_free(planned.trunk, path)  # another command may have been quicker
            os.rename(partial, path)
        sync_folder(path.parent)
    return RunFolder(path), why


def _chosen(trunk: RunFolder, step: int | None) -> tuple[StoredCheckpoint, list[str]]:
    """The checkpoint whose every byte is right: a branch has no other to fall back to."""
    whole, weights = steps_in(trunk.checkpoints), steps_in(trunk.checkpoints, "weights")
    bare = step if step is not None else max(weights, default=None) if not whole else None
    if bare in weights and bare not in whole:
        raise BadInput(
            f"{trunk.checkpoints}: of step {bare} the weights alone are kept, which cannot be gone on with; "
            f"a new run begins from them with init_from={trunk.path}@{bare}"
        )
    damaged: dict[int, list[str]] = {}
    while True:
        stored, passed_over = newest(trunk.checkpoints, step, rewound(trunk), damaged)
        if stored is None:
            raise BadInput(f"{trunk.path}: has no checkpoint to go on from; 'headrace status' shows it")
        if not (lines := stored.problems()):
            return stored, passed_over
        damaged[stored.step] = lines


def _require_free(trunk: RunFolder, path: Path) -> None:
    if "://" in str(path):
        raise BadInput(f"--folder: expected a local folder, got {path.parent}")
    if exists(path):
        raise BadInput(f"--name: {path} exists; name a new run")
    if path.resolve().is_relative_to(trunk.path.resolve()):
        raise BadInput(f"--folder: {path} lies in the run {trunk.path}; name a folder outside of it")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to make it in. Locked while it is made: what a killed process left there is
    known by its lock that is gone, and cleared away."""
    for left in path.parent.glob(f".{path.name}.new-*"):
        with _locked(left) as dead:
            if dead:
                shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
    with folder_aside(partial), _locked(partial):
        yield partial


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether nobody else holds the folder; then this process does, within it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _fill(planned: Fork, new: RunFolder) -> str | None:
    trunk, stored, at = planned.trunk, planned.stored, Progress.from_json(planned.stored.progress)
    why = share(stored, new.checkpoints / stored.path.name)  # first: the trunk may delete it at any moment
    skips = read_history(trunk.plan).skips if trunk.plan.exists() else at.history.skips
    segments = tuple(segment for segment in at.history.segments if segment[0] < at.row)
    _write_lines(new.plan, replace(at.history, segments=segments, skips=skips).to_json())
    write_once(new.tokenizer, _content(trunk.tokenizer))
    config = run_config.dump(planned.config).encode()
    write_once(new.config_file, config)
    parts = lineage_to(trunk, stored.attempt, stored.step)
    ends = [int(first_line(trunk, attempt)["row"]) for attempt, _, _ in parts[1:]] + [at.row]
    for part, end in zip(parts, ends, strict=True):
        _take(trunk, new, part, end)
    own = new.attempt_path(parts[-1][0] + 1)
    own.mkdir()
    write_once(own / "config.yaml", config)
    _write_lines(own / "ledger.jsonl", _beginning(planned, at, why))
    return why


def _take(trunk: RunFolder, new: RunFolder, part: Part, end: int) -> None:
    """What an attempt of the trunk recorded of the steps of this part, whose rows are those before `end`."""
    attempt, after, upto = part
    source, target = trunk.attempt_path(attempt), new.attempt_path(attempt)
    target.mkdir(parents=True)
    write_once(target / "config.yaml", _content(source / "config.yaml"))
    first = first_line(trunk, attempt)
    told = (
        line
        for line in read_lines(source / "ledger.jsonl", "event")
        if line["event"] == "evaluation"  # of its start: which rows the losses are of
        or (line["event"] != "skip" and after < line.get("step", -2) <= (upto or 0))
    )
    _write_lines(target / "ledger.jsonl", [first, *(line for line in told if line != first)])
    steps = read_lines(source / "metrics.jsonl", "step")
    _write_lines(target / "metrics.jsonl", (line for line in steps if after < line["step"] <= (upto or 0)))
    for log in sorted(source.glob("openings-*.bin")):
        records = read_openings(log)
        write_once(target / log.name, records[records["row"] < end].tobytes())


def _beginning(planned: Fork, at: Progress, why: str | None) -> Iterator[Mapping[str, Any]]:
    """The ledger of the attempt that a branch begins with: it trains nothing. What the trunk has left out so
    far counts here as it would there, also what it found after this step or on a way that it gave up."""
    trunk, stored = planned.trunk, planned.stored
    now = round(time.time(), 3)
    yield {
        "event": EVENT,
        "time": now,
        "step": stored.step,
        "parent": stored.attempt,
        "row": at.row,
        "trunk": Trunk(str(trunk.path), stored.step, stored.attempt, trunk_of(trunk)).to_json(),
        "checkpoint": str(stored.path),
        "copied": why,
        "passed_over": planned.passed_over,
        "changed": {dotted(change.key): change.plain for change in changes(planned.before, planned.config)},
    }
    seen = set()
    for line in trunk.ledger():
        if line["event"] == "skip" and (one := (line["corpus"], line["unit"], line["key"])) not in seen:
            seen.add(one)
            yield {key: value for key, value in line.items() if key != "attempt"}
    yield {"event": "stop", "time": now, "reason": "branched"}


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A file of JSON lines, whole and on the disk."""
    with written_aside(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    sync_folder(path.parent)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}; a branch needs it") from None
