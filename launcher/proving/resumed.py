"""Uninterrupted = killed at random and resumed.

straight   1 2 3 4 5 6 7 8
killed     1 2 3 4 ✗             signal 9 to every rank, at a moment drawn by lot
resumed        3 4 5 6 7 8       from the newest checkpoint: each step is saved, so the first state that
                                 differs names the tensor that did
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from launcher.proving.measure import OVER_CONTROL, Measured, measured, relative, worst
from launcher.proving.reduced import STEPS
from launcher.proving.witness import Witness, unequal

BITS = "where kernels are deterministic every number is the same"


def check_resume(
    straight: Witness, resumed: Witness, first: int, how: str, again: Callable[[], Witness]
) -> list[Measured]:
    """The lines of the report. first: the step after which the resume went on; how: the kill, in words.
    again: makes the straight run once more, the control, wanted only where a number differs."""
    expected, found = straight.all_lines(STEPS), resumed.all_lines(STEPS)
    other_rows = [
        b["step"] for a, b in zip(expected, found, strict=True) if a["fingerprint"] != b["fingerprint"]
    ]
    batches = measured(
        "resume",
        "steps with other rows",
        len(other_rows),
        0,
        "rows are a function of the plan and the step",
        f"{how}; {_first_of(other_rows, 'other rows from step {} on')}",
    )
    numbers = _numbers(found, expected)
    difference, at = worst(numbers)
    # The state at the first step that was made again: the loss that led to it was still of equal weights.
    step = min(first + 1, STEPS)
    states = {n: unequal(resumed.tensors(n), straight.tensors(n)) for n in sorted({step, STEPS})}
    unlike = {n: lines for n, lines in states.items() if lines}
    noise, reason = 0.0, BITS
    if (difference or unlike) and not other_rows:
        noise = worst(_numbers(again().all_lines(STEPS), expected))[0]
        reason = (
            f"{BITS}; the run made again differs by {noise:.2g}"
            if noise
            else f"{BITS}: the run made again equals itself"
        )
    lines = [
        batches,
        measured(
            "resume", "losses and norms, relative", difference, OVER_CONTROL * noise, reason, _where(at)
        ),
    ]
    if not noise:
        detail = "; ".join(f"after step {n}: {_shortly(names)}" for n, names in unlike.items())
        count = sum(map(len, unlike.values()))
        lines.append(measured("resume", "tensors of the state that differ", count, 0, reason, detail))
    return lines


def _numbers(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> dict[str, float]:
    """'step: what' → relative difference, of losses, those of objectives, and norms."""
    differences = {}
    for line, other in zip(found, expected, strict=True):
        for what, number in numbers_of(other).items():
            mine = numbers_of(line).get(what, math.nan)
            differences[f"{line['step']}: {what}"] = relative(mine, number)
    return differences


def numbers_of(line: dict[str, Any]) -> dict[str, float]:
    """What of a step's line layouts and resumes must agree on."""
    objectives = {
        f"loss of {name}": part["loss"]
        for name, part in line["objectives"].items()
        if part["loss"] is not None
    }
    return {"loss": line["loss"], "norm": line["grad_norm"], **objectives}


def _where(at: str) -> str:
    return f"most in step {at}" if at else ""


def _first_of(steps: Sequence[int], words: str) -> str:
    return words.format(steps[0]) if steps else "every row is the same"


def _shortly(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return "; ".join(names[:2]) + more
