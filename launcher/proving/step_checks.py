"""The checks of a single step or a single state: segments, the reported loss, replicas, updates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher.proving.measure import Measured, Precision, measured, relative, worst
from launcher.proving.reduced import STEPS
from launcher.proving.resumed import numbers_of
from launcher.proving.witness import Missing, Witness
from objectives.registry import NAMES


def check_segments(by: dict[str, dict[str, list[float]]], places: Sequence[dict[str, Any]]) -> list[Measured]:
    """by: who evaluated the probes → their losses (probes.py). places: what each probe is."""
    lines, blind = [], []
    for who, losses in by.items():
        as_is, again, outside, inside = (
            np.array(losses[kind]) for kind in ("as_is", "again", "outside", "inside")
        )
        noise = float(np.abs(again - as_is).max())
        moved = np.abs(outside - as_is)
        number = int(np.argmax(np.where(np.isnan(moved), np.inf, moved)))
        reason = "masked terms are exactly 0" + (f"; twice the same differs by {noise:.2g}" if noise else "")
        what = f"a term moves by what it must not see, {who}"
        detail = "" if moved[number] <= 2 * noise else _place(places[number])
        lines.append(measured("segments", what, float(moved[number]), 2 * noise, reason, detail))
        blind += [
            f"{who}: {_place(places[n])}"
            for n in np.flatnonzero(~(np.abs(inside - as_is) > 2 * noise)).tolist()
        ]
    what = f"probes, of {len(places)} × {len(by)}, that what they see does not move"
    reason = "a blind probe would see no leak either"
    return [*lines, measured("segments", what, len(blind), 0, reason, "; ".join(blind[:1]))]


def _place(place: dict[str, Any]) -> str:
    return (
        f"{NAMES[place['objective']]}, row {place['row']}, position {place['position']}, "
        f"which sees {place['first']} to {place['last']}"
    )


def check_loss(
    straight: Witness, own: dict[str, Any], fingerprint: str, precision: Precision
) -> list[Measured]:
    """The first line against what the plain model makes of the very rows. own: what plain.recompute says;
    fingerprint: of the rows that it was given."""
    line = straight.all_lines(STEPS)[0]
    expected = {f"loss of {name}": loss for name, loss in own["objectives"].items()}
    told = numbers_of(line)
    differences = {what: relative(told.get(what, math.nan), loss) for what, loss in expected.items()}
    figure, at = worst(differences)
    same = line["fingerprint"] == fingerprint
    return [
        measured("loss", "steps with other rows", int(not same), 0, "rows are a function of the plan"),
        measured("loss", "loss by objective, relative", figure, precision.loss, precision.why, at),
        measured(
            "loss",
            "loss over the global batch, relative",
            relative(told["loss"], own["loss"]),
            precision.loss,
            precision.why,
            f"reported {told['loss']:.7g}, plain {own['loss']:.7g}",
        ),
        measured(
            "loss",
            "norm of its gradient, relative",
            relative(told["norm"], own["norm"]),
            precision.gradient,
            precision.why,
            f"reported {told['norm']:.6g}, plain {own['norm']:.6g}",
        ),
    ]


def check_replicas(ranks: Sequence[dict[str, Any]]) -> list[Measured]:
    """ranks: what each found of what it shares with others (watched.replicas)."""
    unlike = ranks[0]["unlike"]
    detail = unlike[0] if unlike else f"a rank shares {max(one['number'] for one in ranks)} with others"
    reason = f"the same sums on every rank, after {STEPS} steps"
    return [measured("replicas", "copies that differ between ranks", len(unlike), 0, reason, detail)]


def check_updates(
    straight: Witness, poisoned: Sequence[dict[str, Any]], at: int, rank: int, processes: int
) -> list[Measured]:
    """Every step of the straight run changed the weights; one whose gradient is no number on one rank is
    refused in words. poisoned: the results of that run, by rank."""
    straight.all_lines(STEPS)
    left_out = []
    before = straight.tensors(1)
    for step in range(2, STEPS + 1):
        after = straight.tensors(step)
        moved = any(
            kind == "w" and not np.array_equal(one, before[name, kind]) for (name, kind), one in after.items()
        )
        if not moved or straight.stored(step).adam_step != step:
            left_out.append(step)
        before = after
    detail = f"step {left_out[0]} was told and its weights are those before it" if left_out else ""
    reason = "a step that is told is made"
    told = [measured("updates", "steps without an update", len(left_out), 0, reason, detail)]
    if len(poisoned) < processes or any("moved" not in one.get("poison", {}) for one in poisoned):
        raise Missing(f"the run with a gradient that is no number did not come to the end of step {at}")
    return told + _refused(poisoned, at, rank)


def _refused(poisoned: Sequence[dict[str, Any]], at: int, rank: int) -> list[Measured]:
    """A NaN in one rank's gradient: that the step was refused, in words, and changed nothing."""
    notes = [one["poison"] for one in poisoned]
    applied = sum(note["applied"] for note in notes)
    lost, moved = sum(note["lost"] for note in notes), sum(note["moved"] for note in notes)
    words = next((one["line"] for one in poisoned if one["line"]), None)
    about = f"NaN in one element of rank {rank}'s gradient, step {at}"
    silent = (
        f"{about}: the run went on under a norm of {notes[0]['norm']}, {lost:,} weights are no number"
        if applied
        else about
    )
    reason = "no update is made of a gradient that is none"
    return [
        measured("updates", "ranks that made the step of a NaN", applied, 0, reason, silent),
        measured("updates", "ranks whose state it moved", moved, 0, reason),
        measured(
            "updates",
            "refusals without a word",
            int(words is None),
            0,
            "what is refused is said",
            words or "the run said nothing",
        ),
    ]
