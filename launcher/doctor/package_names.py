"""Whether `data`, `model` and `objectives` are headrace's own and not packages of somebody else."""

import importlib.util
from pathlib import Path

ROOMS = ("launcher", "data", "model", "objectives")


def shadowed() -> list[str]:
    """One line a room that would be imported from a foreign place. Imports nothing."""
    root = Path(__file__).resolve().parents[2]
    lines = []
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != root / room:
            lines.append(
                f"the package '{room}' would be imported from {found or 'nowhere'} instead of {root / room}; "
                "run headrace in an environment of its own, without that folder on PYTHONPATH"
            )
    return lines
