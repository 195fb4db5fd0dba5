"""One rank of a job: connects to the others and does the tasks, one after the other.

Results are on the disk after each task, so a job that fails in a later one leaves what it found before.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World, discover
from launcher.proving.plain import back_ends, recompute
from launcher.proving.watched import train

Task = Callable[[World, dict[str, Any]], dict[str, Any]]

TASKS: dict[str, Task] = {"train": train, "recompute": recompute, "back_ends": back_ends}


def work(world: World, folder: Path) -> None:
    """The tasks of the job in a folder. torch.distributed is connected."""
    job = json.loads((folder / "job.json").read_text())
    found: dict[str, Any] = {}
    result = folder / f"result-{world.rank:04d}.json"
    for task in job["tasks"]:
        found[task["name"]] = TASKS[task["do"]](world, task)
        fresh = result.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        os.replace(fresh, result)


def main() -> None:
    """A rank as local_launch.launch starts it: FOLDER."""
    world = discover()
    try:
        connect(world)
        work(world, Path(sys.argv[1]))
    finally:
        disconnect()
