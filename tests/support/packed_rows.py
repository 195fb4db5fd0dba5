"""Micro-batches for the tests of the model: segments of every context, packed side by side, padded."""

import torch
from torch import Tensor

SHAPES = ("causal", "full", "prefix")
HEADS = ("vocabulary", "vocabulary", "binary")


def layout(lengths: list[list[tuple[int, str]]], length: int) -> tuple[Tensor, Tensor]:
    """start and bound, int32 [rows, length], of rows of (segment length, shape); the rest is padding."""
    place = torch.arange(length, dtype=torch.int32)
    start, bound = place.repeat(len(lengths), 1), place.repeat(len(lengths), 1)
    for row, segments in enumerate(lengths):
        at = 0
        for n, shape in segments:
            start[row, at : at + n] = at
            prompt = {"causal": 1, "full": n, "prefix": max(1, n // 3)}[shape]
            bound[row, at : at + prompt] = at + prompt - 1
            at += n
    return start, bound


MIXED = [
    [(5, "causal"), (7, "full"), (8, "prefix"), (1, "causal"), (9, "causal")],
    [(12, "prefix"), (12, "prefix"), (3, "full")],
    [(32, "causal")],
    [(16, "full"), (16, "full")],
]
"""Rows of T = 32."""


def batch(
    start: Tensor, bound: Tensor, vocabulary: int, share: float = 0.6, seed: int = 0
) -> dict[str, Tensor]:
    """Random tokens, and targets of random objectives and two corpora at about `share` of the positions."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> Tensor:
        return torch.randint(high, start.shape, generator=generator, dtype=torch.int32)

    objective = draw(len(HEADS))
    asked = torch.rand(start.shape, generator=generator) < share
    targets = torch.where(objective == HEADS.index("binary"), draw(2), draw(vocabulary))
    weights = torch.rand(start.shape, generator=generator)
    return {
        "tokens": draw(vocabulary),
        "targets": torch.where(asked, targets, -1),
        "weights": torch.where(asked, weights, 0.0),
        "start": start,
        "bound": bound,
        "objective": torch.where(asked, objective, -1).to(torch.int8),
        "corpus": torch.where(asked, draw(2), -1).to(torch.int8),
    }
