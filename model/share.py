"""Blocks that several hold together: each has some of the heads and some of the features of every block.

    half of a block    x ─▶ enter ─▶ first matrix ─▶ own heads, or features ─▶ last matrix ─▶ leave ─▶ + x
                           to all      its rows                                 its columns   sum over all

A head, and a feature of the MLP, stands alone between the two matrices of its half, and the last matrix adds
them up. So who has some of them needs the rows of the first matrix and the columns of the last that belong
to them, and what comes out is a term of the sum that is the half's result. Everything else (norms, tables,
the Head) all of them have whole. How they are told of each other's terms is not known here: `enter` and
`leave` are given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


def _same(x: Tensor) -> Tensor:
    return x


Passage = Callable[[Tensor], Tensor]
"""A tensor → one of the same shape."""


@dataclass(frozen=True)
class Share:
    """Which of `of` equal parts of each block is had."""

    index: int = 0
    of: int = 1
    enter: Passage = _same
    """Of what all have alike and use with their own heads or features, activations or a weight: itself; its
    gradient is the sum over all."""
    leave: Passage = _same
    """Of a term: the sum over all; its gradient is that of the sum."""


WHOLE = Share()
"""All of every block."""


class Sections(NamedTuple):
    """How a matrix [outputs, inputs] is shared: along `dim` it has sections of these sizes, and each holder
    has an equal part of every section. q, k and v are sections of one matrix, and so are gate and up."""

    dim: int
    sizes: tuple[int, ...]
