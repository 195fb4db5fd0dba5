"""Keeps a terminal readable: what libraries print goes to the attempt's log file, our own lines do not.

DeepSpeed, torch and NCCL write to the file descriptors 1 and 2, some from C++, so Python's sys.stdout is the
wrong place to catch them. `quiet` points the two descriptors at a file and hands back streams on the
originals. Everything is put back on leaving, so that an error that ends the program is seen by the person
who started it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Within it, this process's output goes to the end of `log`; yields a stream on the original stdout."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    terminal = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
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
