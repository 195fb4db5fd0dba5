"""How much memory the host can still give: of the machine, and of the control groups that bound a job on it.

MemAvailable of /proc/meminfo
limit − use + what the kernel would drop     of each group from that of this process up to the root:
                                             Slurm and containers bound a group above it
"""

from collections.abc import Iterator
from pathlib import Path


def host_memory_free(root: Path = Path("/")) -> int:
    """Bytes. root: where the kernel's files lie."""
    meminfo = (root / "proc/meminfo").read_text().splitlines()
    available = next(line for line in meminfo if line.startswith("MemAvailable:"))
    return min([int(available.split()[1]) << 10, *_of_groups(root)])


def _of_groups(root: Path) -> Iterator[int]:
    """Bytes that each control group of this process has left; none for a group without a limit."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, limit, use, dropped = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, use = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            dropped = "total_inactive_file"
        else:
            continue
        own = Path(path.lstrip("/"))
        for group in (root / top / part for part in (own, *own.parents)):
            if (group / limit).exists() and (bound := (group / limit).read_text().strip()) != "max":
                stat = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                yield int(bound) - int((group / use).read_text()) + int(stat.get(dropped, 0))
