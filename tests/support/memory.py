"""What a piece of work takes of this process's memory."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident(field: str) -> int:
    """Bytes: VmRSS, what is resident; VmHWM, the most since `measured` began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) << 10


def measured(work: Callable[[], Any]) -> tuple[Any, int, int]:
    """What `work` gives; the most that was resident meanwhile, and what is still, over what was before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    result = work()
    most = resident("VmHWM") - before
    gc.collect()
    return result, most, resident("VmRSS") - before
