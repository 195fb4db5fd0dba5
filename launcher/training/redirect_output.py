"""Keeps a terminal readable: what libraries print goes to the attempt's log file, our own lines do not.

DeepSpeed, torch and NCCL write to the file descriptors 1 and 2, some from C++, so Python's sys.stdout is the
wrong place to catch them. `quiet` points the two descriptors at a file and hands back streams on the
originals. Everything is put back on leaving, so that an error that ends the program is seen by the person
who started it.

The console is not the run: what it refuses to take is noted once, in the ledger and in the log.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from data.errors import BadInput
from launcher.runs import run_folder
from launcher.standard_streams import Lost, refused, text_stream


class ConsoleLoss:
    """Notes, once for each of stdout and stderr, that this rank's console cannot be written."""

    def __init__(self, attempt_path: Path, rank: int) -> None:
        self._path, self._rank = attempt_path, rank
        self._noted: set[str] = set()

    def note(self, stream: str, error: OSError) -> None:
        """To be called within `quiet`, in an attempt that has begun: the ledger begins with that."""
        if stream in self._noted:
            return
        self._noted.add(stream)
        print(
            f"headrace: {stream}: cannot be written: {error.strerror}; the run goes on without",
            file=sys.stderr,
            flush=True,
        )
        with suppress(BadInput):  # a disk that takes no ledger either is met where the ledger matters
            run_folder.record(self._path, "console", rank=self._rank, stream=stream, error=error.strerror)

    def note_earlier(self) -> None:
        """What was refused before the attempt had begun."""
        for stream, writer in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if error := refused(writer):
                self.note(stream, error)


@contextmanager
def quiet(log: Path, lost: Lost) -> Iterator[TextIO]:
    """Within it, this process's output goes to the end of `log`; yields a stream on the original stdout,
    which calls `lost` with the first error of a write and raises none."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    terminal = text_stream(os.dup(1), lost, like=sys.stdout, owned=True)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal.close()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(file)
