"""The segments of a micro-batch, read from start and bound, for attention that goes segment by segment.

Rows are laid end to end, [rows · T] positions, and cut where segments begin. Neighbouring segments that are
alike in length and shape are one group, so whole rows of one causal segment each become a single call. A
segment's shape is read from `bound`: every position sees up to itself (causal), every position sees the whole
segment (full), or anything else (mask). A position that is a segment by itself, as padding is, sees only
itself.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Group:
    """`count` neighbouring segments of `length` positions. shape: 'single', 'causal', 'full' or 'mask'."""

    length: int
    count: int
    shape: str
    bound: np.ndarray | None = None
    """int [length], relative to the segment's first position; for 'mask', whose count is 1."""


def groups(start: np.ndarray, bound: np.ndarray) -> list[Group]:
    """The segments of integer arrays [rows, T], in order, neighbours alike put together."""
    length = start.shape[1]
    position = np.arange(length)
    first = np.flatnonzero(start == position)
    sizes = np.diff(first, append=start.size)
    last = (first + sizes - 1) % length
    causal = np.logical_and.reduceat((bound == position).ravel(), first)
    full = np.logical_and.reduceat(bound.ravel() == np.repeat(last, sizes), first)
    found: list[Group] = []
    for at, size, is_causal, is_full in zip(first, sizes.tolist(), causal, full):
        shape = "single" if size == 1 else "causal" if is_causal else "full" if is_full else "mask"
        before = found[-1] if found else None
        if before is not None and shape != "mask" and (before.length, before.shape) == (size, shape):
            found[-1] = Group(size, before.count + 1, shape)
        elif shape == "mask":
            found.append(Group(size, 1, shape, bound.ravel()[at : at + size] - at % length))
        else:
            found.append(Group(size, 1, shape))
    return found
