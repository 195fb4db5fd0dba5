"""The openings log: which block each stream opened, and at which row.

A row's block cannot be computed from its number alone (how many rows a block gives is known only once it was
packed), so every opening is written down: 32 bytes each, one file a rank and attempt, in the order of rows. A
file is appended to without a buffer, so a killed process has lost nothing that it used; a machine that loses
power, nothing from before the last `sync`. The tail of a record that a crash cut short is ignored. `merge`
follows the lineage: what an attempt logged for rows that a later attempt began before is forgotten.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.durable import sync_folder, writing
from data.errors import BadInput
from data.stream.streams import Opening

RECORD = np.dtype(
    [("row", "<i8"), ("j", "<i8"), ("stream", "<i4"), ("build", "<i4"), ("rows", "<i4"), ("corpus", "<i4")]
)
"""One Opening, 32 bytes."""


class OpeningsLog:
    """Appends openings to a file. Call it with each (it is what a Loader takes as `log`)."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        torn = os.fstat(self._file).st_size % RECORD.itemsize
        if torn:
            os.truncate(path, os.fstat(self._file).st_size - torn)

    def __call__(self, opening: Opening) -> None:
        record = np.zeros((), RECORD)
        for name in RECORD.names or ():
            record[name] = getattr(opening, name)
        with writing(self._path):
            written = os.write(self._file, record.tobytes())
        if written != RECORD.itemsize:
            raise BadInput(f"{self._path}: cannot be written: the disk is full")

    def sync(self) -> None:
        """What was written is on the disk when this returns; BadInput where it refuses. To be called
        on each rank before a checkpoint is published: a run that goes on from it opens nothing of before
        again."""
        with writing(self._path):
            os.fsync(self._file)
            sync_folder(self._path.parent)

    def close(self) -> None:
        """Syncs and closes."""
        try:
            self.sync()
        finally:
            os.close(self._file)


def read_openings(path: str | Path) -> np.ndarray:
    """RECORD [n] of one file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    return np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)


def merge_openings(attempts: Iterable[tuple[int, Sequence[np.ndarray]]]) -> np.ndarray:
    """RECORD [n] along a lineage. attempts: (first row, the records of its ranks), in the order of attempts;
    a later attempt's first row ends the one before."""
    kept = np.empty(0, RECORD)
    for first_row, ranks in attempts:
        records = np.concatenate([np.empty(0, RECORD), *ranks])
        kept = np.concatenate([kept[kept["row"] < first_row], records[records["row"] >= first_row]])
    order = np.lexsort((kept["build"], kept["j"], kept["stream"], kept["corpus"]))
    return kept[order]
