"""Parts that measure nothing, for tests/gpu/test_parts.py. No torch here: they begin at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable


def quick(tell: Callable[..., None]) -> None:
    """A part that ends."""
    tell(1, "first")
    tell(2, "second")


def stuck(tell: Callable[..., None]) -> None:
    """A part that tells something, starts a process and hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(child.pid, "a process")
    time.sleep(600)


def broken(tell: Callable[..., None]) -> None:
    """A part that fails after a row."""
    tell(1, "first")
    raise ValueError("no luck\nat all")


def lost(tell: Callable[..., None]) -> None:
    """A part whose process is killed, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
