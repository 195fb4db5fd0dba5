"""Ragged arrays: segments of uneven length in one array, one behind the other or with gaps between them."""

from collections.abc import Sequence

import numpy as np


def starts_of(sizes: np.ndarray) -> np.ndarray:
    """int64 [segments]: where each segment begins in a ragged array without gaps."""
    return np.cumsum(sizes) - sizes


def starts_between(sizes: np.ndarray) -> np.ndarray:
    """int64 [segments]: the same where each segment stands between two tokens, the one before it and the one
    behind."""
    return starts_of(sizes + 2) + 1


def positions_in(sizes: np.ndarray) -> np.ndarray:
    """int32 [Σ sizes]: 0 … size−1 in each segment."""
    return np.arange(int(sizes.sum()), dtype=np.int32) - np.repeat(starts_of(sizes).astype(np.int32), sizes)


def moved(goes_to: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64 [Σ sizes]: where each token of a ragged array without gaps comes to stand when every segment
    moves as a whole, segment p to the positions from goes_to[p] on.

        sizes 3, 2   a b c d e      goes_to 4, 1   · d e · a b c      moved   4 5 6 1 2
    """
    return np.repeat(goes_to - starts_of(sizes), sizes) + np.arange(int(sizes.sum()))


def runs_of(array: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The runs [starts[p], starts[p] + sizes[p]) of an array, as views."""
    return [array[start:stop] for start, stop in zip(starts.tolist(), (starts + sizes).tolist())]


def surrounded(
    segments: Sequence[np.ndarray], before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(around, starts, sizes) of segments, each between two tokens, as Sources holds them."""
    sizes = np.array([len(tokens) for tokens in segments])
    edges = np.column_stack([before, after]).astype(np.int32)
    parts = [part for edge, tokens in zip(edges, segments) for part in (edge[:1], tokens, edge[1:])]
    return np.concatenate(parts, dtype=np.int32), starts_between(sizes), sizes
