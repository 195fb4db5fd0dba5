"""What a check says: a figure, the tolerance that it is held against, and why that is the tolerance.

Where rounding is all that may differ, it differs more with every step: at a peak learning rate two runs that
begin 1e-7 apart are 1e-2 apart eighty steps later. So what is compared at the first step, before anything was
amplified, has a tolerance of the precision; what is compared later is held against a control, a run of the
same config whose initial weights were moved by the last place of their precision, and nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

CHECKS: dict[str, str] = {
    "resume": "uninterrupted = killed at random and resumed, bit for bit",
    "single": "this layout = the single process",
    "pipeline": "stages = none",
    "sequence": "rows cut over ranks = none",
    "tensor": "matrices cut over ranks = none",
    "accumulation": "micro-batch and accumulation make no difference",
    "segments": "a position sees its own segment alone, as far as its bound",
    "loss": "the loss reported = the loss optimised",
    "replicas": "replicas agree bit for bit",
    "updates": "no update is left out unsaid",
}
"""Name → what it shows, in the order of the report."""

AXES = ("pipeline", "sequence", "tensor")

Verdict = Literal["shown", "FAILED", "skipped"]


@dataclass(frozen=True)
class Precision:
    """What rounding may do, relative, where nothing has amplified it yet."""

    loss: float
    gradient: float
    """Of one tensor, as the length of the difference over the length."""
    nudge: float
    """The last place of a weight, by which the control's are moved."""
    why: str


PRECISIONS = {
    "fp32": Precision(1e-5, 1e-3, 2.0**-23, "fp32 sums in another order"),
    "bf16": Precision(2e-3, 3e-2, 2.0**-8, "bf16 has 8 bits, and sums in another order"),
}

OVER_CONTROL = 8.0
"""How often the control's difference another run may differ: both are single draws of the same noise."""


@dataclass(frozen=True)
class Measured:
    """One line of the report."""

    check: str
    what: str
    verdict: Verdict
    figure: float | None
    tolerance: float | None
    reason: str
    """Why this is the tolerance; of what is skipped, why."""
    detail: str = ""
    """What differs, and where."""

    def plain(self) -> dict[str, Any]:
        """JSON-able: a figure that is no number is the word for it."""
        figure = self.figure
        finite = figure is None or math.isfinite(figure)
        return asdict(self) | {"figure": figure if finite else str(figure)}


def measured(
    check: str, what: str, figure: float, tolerance: float, reason: str, detail: str = ""
) -> Measured:
    """A figure held against its tolerance; one that is no number is beyond any."""
    verdict: Verdict = "shown" if figure <= tolerance else "FAILED"
    return Measured(check, what, verdict, figure, tolerance, reason, detail)


def not_measured(check: str, why: str) -> Measured:
    """What could not be shown because a run ended otherwise than it should."""
    return Measured(check, "its runs", "FAILED", None, None, "a run that ends is needed", why)


def skipped(check: str, why: str) -> Measured:
    """What the config does not use."""
    return Measured(check, "", "skipped", None, None, why)


def relative(found: float, expected: float) -> float:
    """|found − expected| / |expected|; 0 where both are 0."""
    return abs(found - expected) / abs(expected) if expected else float(found != expected)


def worst(differences: Mapping[str, float]) -> tuple[float, str]:
    """The largest and whose it is; not a number counts as the largest."""
    if not differences:
        return 0.0, ""
    name = max(differences, key=lambda key: (differences[key] != differences[key], differences[key]))
    return differences[name], name
