"""Where the repository lies, and its source files: for tests that look at all of them.

A test that walks the sources through here cannot pass because it saw none of them: `source_files` says how
many there must be at least, and a move of files that leaves them behind is told at once.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("launcher", "model", "data", "objectives")
FEWEST = 100
"""Source files that the rooms hold at least."""


def source_files(*rooms: str) -> list[Path]:
    """Every .py file of the rooms (by default of all four), however deep. AssertionError where all four are
    asked for and fewer than FEWEST are found, or where a room has none."""
    found = {room: sorted((ROOT / room).rglob("*.py")) for room in rooms or ROOMS}
    assert all(found.values()), {room: len(files) for room, files in found.items()}
    files = [file for room in found.values() for file in room]
    assert rooms or len(files) > FEWEST, len(files)
    return files
