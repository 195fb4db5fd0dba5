"""A run on disk: one folder, one attempt a start, and a ledger of what happened (docs/design/run-folder.md).

    runs/NAME/
      config.yaml, tokenizer.model      as first started
      plan.jsonl                        written by the stream's plan
      attempts/0001/                    one start of the run, one writer
        writer.json                     who writes (writer_lock.py)
        config.yaml                     as this attempt runs it, edits included
        ledger.jsonl, metrics.jsonl, openings.bin, rank-0000.log …
      checkpoints/

An attempt gets its number by one rename: the folder is prepared under a name of its own, its lock held, and
appears as attempts/NNNN complete or not at all. It counts as started once its ledger has a first line, so a
start that loses a race leaves no trace and fences nobody.
"""

import os
import shlex
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.durable import append_record, folder_aside, read_lines, write_once, writing
from data.errors import BadInput
from launcher.config import run_config
from launcher.config.compare import changes, of_another_run, watched_as
from launcher.config.require import require_files
from launcher.config.run_config import Config
from launcher.config.yaml_reader import dotted
from launcher.runs.writer_lock import BEAT_SECONDS, WATCH_SECONDS, Writer, live

SHOWN_KEYS, SHOWN_WIDTH = 3, 80
"""Of the keys in which two configs differ, a line shows so many, each with so many characters."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The config as first started."""
        return self.path / "config.yaml"

    @property
    def tokenizer(self) -> Path:
        """The run's own copy of its SentencePiece model."""
        return self.path / "tokenizer.model"

    @property
    def plan(self) -> Path:
        """The plan's segments."""
        return self.path / "plan.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def attempt_path(self, number: int) -> Path:
        """The folder of an attempt."""
        return self.path / "attempts" / f"{number:04d}"

    def attempts(self) -> list[int]:
        """The numbers of the attempts that were started, ascending."""
        return [number for number in self._claimed() if _started(self.attempt_path(number))]

    def _claimed(self) -> list[int]:
        folder = self.path / "attempts"
        entries = folder.glob("[0-9]*") if folder.is_dir() else ()
        return sorted(int(entry.name) for entry in entries if entry.name.isdigit() and entry.is_dir())

    @property
    def current_config_file(self) -> Path:
        """The config of the newest attempt: as first started, with all edits of resumes since."""
        begun = self.attempts()
        return self.attempt_path(begun[-1]) / "config.yaml" if begun else self.config_file

    def first_config(self) -> Config:
        """The config as first started."""
        return run_config.load_kept(self.config_file)

    def current_config(self) -> Config:
        """What stands in `current_config_file`."""
        return run_config.load_kept(self.current_config_file)

    def attempt_config(self, number: int) -> Config:
        """The config that an attempt ran with."""
        return run_config.load_kept(self.attempt_path(number) / "config.yaml")

    def ledger(self) -> Iterator[dict[str, Any]]:
        """The ledger lines of all attempts, oldest first, each with its `attempt`."""
        for number in self.attempts():
            for line in read_lines(self.attempt_path(number) / "ledger.jsonl", "event"):
                yield {"attempt": number, **line}

    def writer(self, watch_seconds: float = 0.0) -> str | None:
        """Who writes the run at this moment, in words; None when nobody does."""
        for number in reversed(self._claimed()):
            holder = live(self.attempt_path(number) / "writer.json", watch_seconds)
            if holder:
                return f"attempt {number}, {holder}"
        return None

    def refuse_writer(self, watch_seconds: float = WATCH_SECONDS) -> None:
        """BadInput while a process writes the run; one on another host is watched for so long
        (writer_lock.py)."""
        if writer := self.writer(watch_seconds):
            raise _written_by(self, writer)


def open_run(path: str | Path) -> RunFolder:
    """The run in a folder. BadInput where there is none."""
    folder = RunFolder(Path(path).absolute())
    if not exists(folder.path):
        raise BadInput(f"{path}: no such folder; expected that of a run, such as runs/first")
    if not folder.config_file.is_file():
        raise BadInput(f"{path}: expected the folder of a run, with a config.yaml in it")
    _require_readable(folder)
    return folder


def _require_readable(folder: RunFolder) -> None:
    """BadInput where what lies in a run cannot be listed: pathlib's globs call such a folder empty."""
    for part in (folder.path / "attempts", folder.checkpoints):
        try:
            os.scandir(part).close()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"{part}: cannot be read: {error.strerror}") from None


def exists(path: Path) -> bool:
    """Whether it is there. BadInput where the file system cannot say: a name may be too long for it."""
    try:
        return path.exists()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def going_on(config: Config) -> tuple[RunFolder, Config] | None:
    """What `start` would go on with, were it called now: None where it would begin a run. Writes nothing, and
    refuses with the same line."""
    folder = RunFolder(config.path)
    if not exists(folder.config_file):
        return None
    _require_readable(folder)
    if _unused(folder, config):
        return None
    return folder, _same_run(folder, config)


def start(config: Config) -> tuple[RunFolder, Config]:
    """The folder of the run that a config names, made if it is not there, and the config to go on with.

    A run that exists is gone on with if it was started with this config, or runs with it now; edits made by
    resumes since stay in force. Keys that only watch it (launcher/config/compare.py) may differ, and are as
    they stand in this config. Any other config is BadInput with the keys that differ, unless every start so
    far failed before there was anything to keep: then this one takes its place.
    """
    folder = RunFolder(config.path)
    with writing(folder.path):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        (folder.path / "attempts").mkdir(exist_ok=True)
    _require_readable(folder)
    if folder.config_file.exists() and _unused(folder, config):
        folder.config_file.unlink()
        folder.tokenizer.unlink(missing_ok=True)
    if not folder.config_file.exists():
        require_files(config)
        write_once(folder.tokenizer, Path(config.tokenizer.model).read_bytes())
        write_once(folder.config_file, run_config.dump(config).encode())
    return folder, _same_run(folder, config)


def _same_run(folder: RunFolder, config: Config) -> Config:
    """The config to go on with in a folder. BadInput where the run in it is another than `config` says."""
    current = folder.current_config()
    changed = of_another_run(current, config)
    if changed and of_another_run(folder.first_config(), config):
        lines = [str(change) for change in changed]
        shown = [line if len(line) <= SHOWN_WIDTH else f"{line[: SHOWN_WIDTH - 1]}…" for line in lines]
        more = f"; and {len(lines) - SHOWN_KEYS} more" if len(lines) > SHOWN_KEYS else ""
        raise BadInput(
            f"{folder.path}: this run exists with another config ({'; '.join(shown[:SHOWN_KEYS])}{more}). "
            f"Begin a new run with run.name={config.run.name}-2, or edit this one: "
            f"headrace resume {shlex.quote(str(folder.path))} key=value"
        )
    return watched_as(current, config)


def _unused(folder: RunFolder, config: Config) -> bool:
    """Whether nothing ever began under the config that stands in a folder, and nobody is about to begin: a
    start that failed over a mistake in its config must not forbid the same run without the mistake."""
    used = folder.attempts() or folder.plan.exists() or any(folder.checkpoints.glob("*")) or folder.writer()
    return not used and bool(changes(folder.first_config(), config))


class Attempt:
    """One start of a run, held by its one writing process (rank 0) from `claim` to `close`."""

    def __init__(
        self, folder: RunFolder, number: int, writer: Writer, changed: Mapping[str, list[Any]]
    ) -> None:
        """changed: {key: [before, now]}, in what its config is not that of the attempt before it."""
        self.folder = folder
        self.number = number
        self.path = folder.attempt_path(number)
        self._writer = writer
        self._changed = dict(changed)

    def begin(self, step: int, parent: int | None, **fields: Any) -> None:
        """The first ledger line: from which step this attempt goes on, and of which attempt that step was.

        `parent` is None for a start from nothing. From here on the attempt fences the ones before it, and
        readers follow `parent` to find the lines that led here. `changed` in it says in which keys of the
        config this attempt is not as the one before it.
        """
        event, host = "start" if parent is None else "resume", socket.gethostname()
        about = {"host": host, "pid": os.getpid(), "changed": self._changed}
        self.record(event, step=step, parent=parent, **about, **fields)

    def record(self, event: str, **fields: Any) -> None:
        """Append a line to the ledger, on the disk when this returns."""
        record(self.path, event, **fields)

    def give_up(self, error: BadInput) -> None:
        """The last ledger line of an attempt that this ends; none where it had not begun."""
        if _started(self.path):
            with suppress(BadInput):  # where the ledger cannot be written either, the error is the news
                self.record("stop", reason="failed", error=str(error))

    def may_publish(self) -> bool:
        """Whether this attempt is still the newest that was started; if not, another has taken over."""
        return self.folder.attempts()[-1:] == [self.number]

    def close(self) -> None:
        """Let go of the run."""
        self._writer.close()


def claim(
    folder: RunFolder,
    config: Config,
    watch_seconds: float = WATCH_SECONDS,
    beat_seconds: float = BEAT_SECONDS,
) -> Attempt:
    """The next attempt of a run, for this process to write. BadInput while another process writes the run."""
    folder.refuse_writer(watch_seconds)
    changed = {dotted(change.key): change.plain for change in changes(folder.current_config(), config)}
    prepared = folder.path / "attempts" / f".new-{uuid.uuid4().hex}"
    with writing(prepared.parent), folder_aside(prepared):
        writer = Writer(prepared / "writer.json", beat_seconds)
        try:
            write_once(prepared / "config.yaml", run_config.dump(config).encode())
            number = _take_number(folder, prepared)
        except BaseException:
            writer.close()
            raise
    attempt = Attempt(folder, number, writer, changed)
    # Two starts at the same moment both saw no writer: the lower number goes on.
    for lower in folder._claimed():
        holder = live(folder.attempt_path(lower) / "writer.json", 0) if lower < number else None
        if holder:
            attempt.close()
            shutil.rmtree(attempt.path)
            raise _written_by(folder, f"attempt {lower}, {holder}")
    return attempt


def record(attempt_path: Path, event: str, **fields: Any) -> None:
    """Append a line to an attempt's ledger, on the disk when this returns. Any rank may."""
    line = {"event": event, "time": round(time.time(), 3), **fields}
    append_record(attempt_path / "ledger.jsonl", line)


def _written_by(folder: RunFolder, writer: str) -> BadInput:
    return BadInput(f"{folder.path}: is being written by {writer}; stop that first, or wait for its end")


def _take_number(folder: RunFolder, prepared: Path) -> int:
    number = max(folder._claimed(), default=0) + 1
    while True:
        try:
            os.rename(prepared, folder.attempt_path(number))
            return number
        except OSError:
            # An attempt's folder is never empty, so a rename onto it fails: that number is taken.
            if not folder.attempt_path(number).exists():
                raise
            number += 1


def _started(path: Path) -> bool:
    ledger = path / "ledger.jsonl"
    return ledger.exists() and ledger.stat().st_size > 0
