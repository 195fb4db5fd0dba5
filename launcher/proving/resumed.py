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
        f"{how}; other rows from step {other_rows[0]} on" if other_rows else how,
    )
    if other_rows:
        return [batches]  # all else follows from that
    difference, at = worst(_numbers(found, expected))
    # The state at the first step that was made again: the loss that led to it was still of equal weights.
    step = min(first + 1, STEPS)
    states = {n: unequal(resumed.tensors(n), straight.tensors(n)) for n in sorted({step, STEPS})}
    unlike = {n: lines for n, lines in states.items() if lines}
    noise, reason = 0.0, BITS
    if difference or unlike:
        noise = worst(_numbers(again().all_lines(STEPS), expected))[0]
        reason += f"; made again it differs by {noise:.2g}" if noise else "; made again it equals itself"
    what, where = "losses and norms, relative", f"{how}; most in step {at}" if at else ""
    lines = [batches, measured("resume", what, difference, OVER_CONTROL * noise, reason, where)]
    if not noise:
        told = "; ".join(f"after step {n}: {_shortly(names)}" for n, names in unlike.items())
        count = sum(map(len, unlike.values()))
        detail = f"{how}; {told}" if told else how
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


def _shortly(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return "; ".join(names[:2]) + more
