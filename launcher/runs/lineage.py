"""What a run's metrics.jsonl files say, read along the lineage.

Each attempt writes a file of its own and goes on from one step of one earlier attempt (the `step` and
`parent` of its first ledger line). So the run's history is: the newest attempt's lines, before them its
parent's lines up to the step where it went on, and so on back. Lines that no later weights descend from
(those after the last checkpoint of a killed attempt, those of a future that a rewind gave up) do not appear.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from data.durable import read_lines
from data.errors import BadInput
from launcher.runs.run_folder import RunFolder

Part = tuple[int, int, int | None]
"""(attempt, after, upto): the attempt's lines with after < step ≤ upto count (None: all)."""


def lineage(run: RunFolder) -> list[Part]:
    """The parts of a run's history, oldest first."""
    numbers = run.attempts()
    return lineage_to(run, numbers[-1], None) if numbers else []


def lineage_to(run: RunFolder, attempt: int | None, upto: int | None) -> list[Part]:
    """The parts that lead to step `upto` of an attempt (None: to its newest), oldest first."""
    parts: list[Part] = []
    while attempt is not None:
        first = first_line(run, attempt)
        parent = first["parent"]
        # A run's first attempt also has the evaluation before its first step.
        after = first["step"] if parent is not None else -1
        if upto is None or upto > after:
            parts.append((attempt, after, upto))
        # A parent's own lines end where this attempt began, and where it had itself been cut.
        upto = after if upto is None else min(after, upto)
        attempt = parent
    return parts[::-1]


def first_line(run: RunFolder, attempt: int) -> dict[str, Any]:
    """The ledger line with which an attempt began: step, parent and more. BadInput where it is lost."""
    path = run.attempt_path(attempt) / "ledger.jsonl"
    for line in read_lines(path, "step", "parent"):
        return line
    begin = json.dumps({"event": "start", "step": 0, "row": 0, "parent": None})
    raise BadInput(
        f"{path}: is missing or empty, so what the run did before cannot be told: bring it back, or, "
        f"if that was the run's first attempt, write this line into it: {begin}"
    )


def attempt_of(parts: Sequence[Part], step: int) -> int | None:
    """Which attempt made, or would make, a step of this history; None where none is begun."""
    for attempt, after, upto in parts:
        if after < step and (upto is None or step <= upto):
            return attempt
    return None


def merged(run: RunFolder, after: int = -1) -> Iterator[dict[str, Any]]:
    """The lines of the run's history with a step above `after`, oldest first."""
    for attempt, start, upto in lineage(run):
        for line in read_lines(run.attempt_path(attempt) / "metrics.jsonl", "step"):
            step = line["step"]
            if step > max(start, after) and (upto is None or step <= upto):
                yield line


def steps(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of training steps: neither evaluations nor samples."""
    return (line for line in lines if "eval" not in line and "samples" not in line)


def newest(lines: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The lines of the last `count` steps."""
    kept: deque[dict[str, Any]] = deque()
    for line in lines:
        kept.append(line)
        while kept[0]["step"] <= line["step"] - count:
            kept.popleft()
    return iter(kept)
