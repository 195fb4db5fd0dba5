"""Who writes a run: one live process, and the newest attempt alone.

Each attempt's folder holds `writer.json`, written and locked (flock) before the folder gets its number. The
lock is the kernel's, not the file's: when the process dies, however it dies, the lock is gone, and nothing
is left that could stop the next start. A writer on another machine may hold a lock that this one cannot see
(network file systems differ), so the writer also counts up in the file every few seconds; a start that finds
a foreign host and no lock watches the count for a while instead of comparing clocks.

A writer that was cut off and comes back is fenced: it is not the newest attempt any more, so `Attempt.
may_publish` in run_folder.py tells it to stop. What remains is the moment between that question and the
rename it allows; checkpoints carry their attempt, so a reader can tell even then.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BEAT_SECONDS = 5.0
"""How often a writer counts up."""
WATCH_SECONDS = 20.0
"""How long a start watches the writer of another host: several beats."""

_log = logging.getLogger("headrace")


@dataclass(frozen=True)
class Holder:
    """The live writer of an attempt."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Writer:
    """This process's hold on `writer.json`, from construction to `close`."""

    def __init__(self, path: Path, beat_seconds: float = BEAT_SECONDS) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._beats = 0
        self._closed = threading.Event()
        os.register_at_fork(after_in_child=self._let_go_in_child)
        self._write(closed=False)
        self._thread = threading.Thread(
            target=self._beat, args=(beat_seconds,), name="heartbeat", daemon=True
        )
        self._thread.start()

    def _write(self, closed: bool) -> None:
        text = json.dumps(
            {"host": socket.gethostname(), "pid": os.getpid(), "beats": self._beats, "closed": closed}
        )
        # One write of one length: a reader never sees half of the old and half of the new.
        os.pwrite(self._file, text.ljust(200).encode() + b"\n", 0)
        os.fsync(self._file)  # a network file system keeps it to itself until then

    def _let_go_in_child(self) -> None:
        # A forked child shares the lock; without this it would hold it beyond our death.
        if not self._closed.is_set():
            os.close(self._file)

    def _beat(self, seconds: float) -> None:
        told = False
        while not self._closed.wait(seconds):
            self._beats += 1
            try:
                self._write(closed=False)
            except OSError as error:  # a disk that fails for a moment must not look like a dead writer
                if not told:
                    _log.warning("writer.json: cannot be written for now: %s", error.strerror)
                told = True

    def close(self) -> None:
        """Say that the writer is gone, and let go of the lock."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        with suppress(OSError):  # the lock that goes, and the count that stands still, say the same
            self._write(closed=True)
        os.close(self._file)


def live(path: Path, watch_seconds: float = WATCH_SECONDS) -> Holder | None:
    """Who holds `writer.json`, or None when nobody does. Watches a writer of another host for a while."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = _content(path)
            return Holder(content.get("host", "an unknown host"), content.get("pid", 0))
    finally:
        os.close(file)
    content = _content(path)
    if content.get("closed", True) or content["host"] == socket.gethostname():
        return None
    end = time.monotonic() + watch_seconds
    while time.monotonic() < end:
        time.sleep(0.2)
        if _content(path).get("beats") != content["beats"]:
            return Holder(content["host"], content["pid"])
    return None


def _content(path: Path) -> dict:
    """What stands in `writer.json`; opened anew each time, which is what makes NFS look at the server."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # nothing in it yet, or damaged: the lock alone tells
        return {}
    return content if isinstance(content, dict) and {"host", "pid", "beats"} <= content.keys() else {}
