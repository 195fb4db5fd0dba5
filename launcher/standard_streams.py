"""stdout and stderr as headrace writes them: what cannot be written is known, and ends nothing by itself.

A full or over-quota disk behind a redirection, a pipe whose reader has ended, a terminal that is gone, a
descriptor that was closed before the start: Python raises whatever the system says out of any print, and once
more at the interpreter's end. Here a descriptor calls `lost` with the first such error, and goes on:

    stdout    of a command that prints an answer: the command ends (StdoutLost; main.py makes one line of it)
    stdout    of training: the loss is noted, training goes on (training/redirect_output.py)
    stderr    nothing: there is nowhere to say it, and the exit code says how it ended

What passes by itself, such as a disk that was full, is tried again with each write. Nothing of ours is
imported here: main.py calls it before it knows that our packages are ours.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

Lost = Callable[[OSError], None]

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET}
"""Errors after which the descriptor will never be written again."""
PATIENCE = 10.0
"""Seconds that a descriptor which does not block (a pipe that another program has set so) may be full."""
BROKEN_PIPE = 128 + 13
"""The exit code of a command whose reader has ended, as of any that SIGPIPE ends."""
NO_OUTPUT = 2


class StdoutLost(Exception):
    """What the user asked for could not be written. `line` says so; none for a pipe, whose reader knows."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        pipe = error.errno == errno.EPIPE
        self.line = None if pipe else f"standard output: cannot be written: {error.strerror}"
        self.code = BROKEN_PIPE if pipe else NO_OUTPUT


class Descriptor(io.RawIOBase):
    """The raw layer of a text stream. `refused`: the first error, None while all was written."""

    def __init__(self, number: int, lost: Lost, owned: bool = False) -> None:
        """owned: the descriptor is closed with this."""
        self._number, self._lost, self._owned = number, lost, owned
        self.refused: OSError | None = None
        self._gone = False

    def writable(self) -> bool:
        """Always, as far as its users know."""
        return True

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def write(self, content: Any, /) -> int:
        """All of it, or it is lost and `lost` was told, of the first error alone."""
        rest = memoryview(content).cast("B")
        length = len(rest)
        while rest and not self._gone:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError as error:
                if not select.select([], [self._number], [], PATIENCE)[1]:
                    self._refuse(error)
                    break
            except OSError as error:
                self._gone = error.errno in GONE
                self._refuse(error)
                break
        return length

    def _refuse(self, error: OSError) -> None:
        if self.refused is None:
            self.refused = error
            self._lost(error)

    def close(self) -> None:
        """Flushes nothing: nothing is kept."""
        if self._owned and not self.closed:
            os.close(self._number)
        super().close()


def text_stream(
    number: int, lost: Lost, like: TextIO | None = None, errors: str = "replace", owned: bool = False
) -> TextIO:
    """A text stream on a descriptor, written line by line; like: whose encoding it has; errors: what becomes
    of characters that this has not, for a terminal without × or … is no reason to end a run."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    raw = Descriptor(number, lost, owned)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


def refused(stream: TextIO) -> OSError | None:
    """The first error of a stream of ours; None of any other."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.refused if isinstance(raw, Descriptor) else None


def expendable(stream: TextIO) -> TextIO:
    """A stream of ours on the same descriptor, of which losses are only remembered; any other as it is."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if not isinstance(raw, Descriptor):
        return stream
    stream.flush()
    return text_stream(raw.fileno(), _ignore, like=stream)


def install() -> None:
    """Take over this process's stdout and stderr. Called once, by the `headrace` command.

    A descriptor that is closed would be given to the next file that is opened, a shard or a checkpoint, and
    what C prints would end in that; so it is filled first, with what refuses to be written all the same.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest that is free: this one
    sys.stdout = text_stream(1, _end, like=sys.stdout)
    sys.stderr = text_stream(2, _ignore, like=sys.stderr, errors="backslashreplace")


def _end(error: OSError) -> None:
    raise StdoutLost(error)


def _ignore(_error: OSError) -> None:
    """stderr: there is nobody to tell."""
