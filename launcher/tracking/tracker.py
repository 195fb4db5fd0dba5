"""Telling what happened: every finished step becomes one line of metrics.jsonl, and observers see it too.

The file is the truth: the console, wandb and the report only repeat it. A record is made once,
frozen, from numbers that were already on the host, so telling costs the step nothing; the names are those
of the design, a value that is not known or not a number is null. Observers run in the training process and
must be quick; wandb is none of them (wandb_feed.py reads the file from a process of its own).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data.durable import append, sync_folder, writing
from launcher.tracking.records import Record, to_json


class Observer(Protocol):
    """Whoever wants to see the records of this process as they are made."""

    def see(self, record: Record) -> None:
        """Called after the record's line was written."""

    def note(self, text: str) -> None:
        """A line for the reader: a checkpoint was saved, a resume began."""

    def close(self) -> None:
        """No more records."""


class Tracker:
    """Writes the records of one attempt and shows them to the observers. Rank 0 has the only one."""

    def __init__(self, attempt_path: Path, observers: Sequence[Observer] = ()) -> None:
        self._path = attempt_path / "metrics.jsonl"
        self._observers = tuple(observers)

    def write(self, record: Record) -> None:
        """Append the record's line, then show it. BadInput when the disk refuses it."""
        append(self._path, to_json(record), sync=False)
        for observer in self._observers:
            observer.see(record)

    def sync(self) -> None:
        """The lines written so far are on the disk when this returns; BadInput where it refuses. To be
        called before a checkpoint is published: a run that goes on from it tells no step of before again."""
        with writing(self._path):
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
            sync_folder(self._path.parent)

    def note(self, text: str) -> None:
        """Show a line that is no measurement; the ledger has the lasting form of it."""
        for observer in self._observers:
            observer.note(text)

    def close(self) -> None:
        """End the observers."""
        for observer in self._observers:
            observer.close()
