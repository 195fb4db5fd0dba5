"""Two runs that must differ by rounding alone: this layout and another, this micro-batch and another.

rows                      every step        the same, by fingerprint
loss, norm                step 1            nothing has amplified a difference yet: the precision's bound
gradient, tensor by       step 1            Adam's first moment is then the clipped gradient times 1 − β₁;
tensor                                      Adam and clipping hide a wrong one from the losses
losses                    steps 2 … n       held against the control
weights                   step n            the same, over the distance that they have moved since step 1
"""

import math

import numpy as np

from launcher.proving.measure import (
    OVER_CONTROL,
    Measured,
    Precision,
    measured,
    relative,
    worst,
)
from launcher.proving.reduced import STEPS
from launcher.proving.resumed import numbers_of
from launcher.proving.witness import Tensors, Witness

LEAST = 1e-4
"""Of the whole gradient's length: what is shorter is held against this, for it is made of rounding."""

MOST = 0.3
"""Of a way: a tolerance beyond that would let another way pass."""


def check_parity(
    check: str, found: Witness, expected: Witness, control: tuple[Witness, Witness], precision: Precision
) -> list[Measured]:
    """The lines of the report. control: two runs that differ by rounding alone."""
    lines, others = found.all_lines(STEPS), expected.all_lines(STEPS)
    rows = [a["step"] for a, b in zip(lines, others, strict=True) if a["fingerprint"] != b["fingerprint"]]
    first = {
        what: relative(numbers_of(lines[0]).get(what, math.nan), number)
        for what, number in numbers_of(others[0]).items()
    }
    figure, at = worst({what: value for what, value in first.items() if what != "norm"})
    told, found_first, expected_first = [], found.tensors(1), expected.tensors(1)
    told.append(
        measured(
            check,
            "steps with other rows",
            len(rows),
            0,
            "rows are a function of the plan and the step",
            f"from step {rows[0]} on" if rows else "",
        )
    )
    told.append(measured(check, "losses of step 1, relative", figure, precision.loss, precision.why, at))
    norms = f"{lines[0]['grad_norm']:.6g} for {others[0]['grad_norm']:.6g}"
    told.append(
        measured(check, "norm of step 1, relative", first["norm"], precision.gradient, precision.why, norms)
    )
    figure, at = worst(gradients(found_first, expected_first))
    told.append(
        measured(check, "gradient of step 1, worst tensor", figure, precision.gradient, precision.why, at)
    )
    return told + _later(check, found, expected, control, precision)


def _later(
    check: str, found: Witness, expected: Witness, control: tuple[Witness, Witness], precision: Precision
) -> list[Measured]:
    """What rounding has grown to, beside what it grows to in the control."""
    figure, at = worst(losses(found, expected))
    noise = worst(losses(*control))[0]
    tolerance = max(precision.loss, OVER_CONTROL * noise)
    words = f"8 × the control's {noise:.2g}, at least {precision.loss:g}"
    told = [measured(check, f"losses of steps 2 to {STEPS}, relative", figure, tolerance, words, at)]
    figure, at = worst(ways(found, expected))
    noise = worst(ways(*control))[0]
    tolerance = min(max(precision.gradient, OVER_CONTROL * noise), MOST)
    words = f"8 × the control's {noise:.2g}, at least {precision.gradient:g}, at most {MOST:g}"
    told.append(measured(check, f"way of the weights to step {STEPS}", figure, tolerance, words, at))
    return told


def losses(found: Witness, expected: Witness) -> dict[str, float]:
    """'step n' → relative difference of the losses of steps 2 to the last."""
    lines, others = found.all_lines(STEPS), expected.all_lines(STEPS)
    return {
        f"step {a['step']}": relative(a["loss"], b["loss"])
        for a, b in zip(lines[1:], others[1:], strict=True)
    }


def gradients(found: Tensors, expected: Tensors) -> dict[str, float]:
    """Name → |difference| / |gradient|, of the first moments after step 1."""
    whole = math.sqrt(sum(_length(one) ** 2 for (_, kind), one in expected.items() if kind == "exp_avg"))
    differences = {}
    for (name, kind), one in expected.items():
        if kind == "exp_avg":
            gap = _length(found[name, kind].astype(np.float64) - one) if (name, kind) in found else math.nan
            scale = max(_length(one), LEAST * whole)
            differences[name] = gap / scale if scale else gap
    return differences


def ways(found: Witness, expected: Witness) -> dict[str, float]:
    """Name → |difference of the ways| / |way|, of the weights from step 1 to the end. Where a weight began
    does not count: the control's began elsewhere."""
    own, other = _way(found), _way(expected)
    differences = {}
    for name, way in other.items():
        gap, length = _length(own[name] - way) if name in own else math.nan, _length(way)
        differences[name] = gap / length if length else gap
    return differences


def _way(run: Witness) -> dict[str, np.ndarray]:
    first, last = run.tensors(1), run.tensors(STEPS)
    return {
        name: one.astype(np.float64) - first[name, kind] for (name, kind), one in last.items() if kind == "w"
    }


def _length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(np.float64).ravel()))
