"""Long rows over several ranks: each has some of their columns, and for attention some of its heads.

    columns                0 …           … T            S = 2 ranks, heads a b c d
    rank 0    layers       ██████████                   everything but attention takes a position by itself
    rank 1    layers                 ██████████
                                ╳                       to the other rank what is its of q, k and v
    rank 0    attention    ████████████████████  a b    whole rows: segments lie across the cut as they please
    rank 1    attention    ████████████████████  c d
                                ╳                       and back
    rank 0    layers       ██████████  a b c d

This is Ulysses (Jacobs et al. 2023). It is exact, any attention back end serves, and what a layer keeps for
its backward pass is 1/S on each rank. Where S does not divide the heads of keys and values, each of these is
sent to several ranks; the heads of queries it must divide.

A weight meets only its rank's columns, so its gradient is the sum over the ranks of a sequence as it is over
those of the data. To DeepSpeed both are data ranks, and it is told nothing of sequences.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from launcher.distributed.mesh import Axis
from launcher.distributed.process_group import group_along
from launcher.distributed.world import World
from model.attention import Kernel


class SequenceColumns:
    """The columns of each row that this rank has, S equal runs of them over the ranks of its sequence: a
    model.attention_context.Columns."""

    def __init__(self, axis: Axis, group: distributed.ProcessGroup | None) -> None:
        """group: the ranks of this sequence, in order; none where one rank has all columns."""
        self.axis, self._group = axis, group

    def of(self, length: int) -> slice:
        """Those of rows of `length` positions, a multiple of S."""
        own = length // self.axis.size
        return slice(self.axis.rank * own, (self.axis.rank + 1) * own)

    def cut(self, whole: Tensor) -> Tensor:
        """[rows, T, …] → [rows, T/S, …]."""
        return whole[:, self.of(whole.shape[1])]

    def over_rows(self, kernel: Kernel) -> Kernel:
        """A kernel for queries, keys and values of the own columns, by `kernel` over whole rows. A collective
        of the sequence, as is its backward pass."""
        if self._group is None:
            return kernel

        def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
            own_q, own_k, own_v = self._to_heads(q, self._copied(k), self._copied(v))
            return self._to_columns(kernel(own_q, own_k, own_v, dropout))

        return attend

    def _copied(self, x: Tensor) -> Tensor:
        """Each head of keys or values as often as it takes for S to divide their number. Queries then find
        theirs as before: those of one head that go to one rank stay neighbours."""
        copies = self.axis.size // math.gcd(self.axis.size, x.shape[2])
        return x.repeat_interleave(copies, dim=2) if copies > 1 else x

    def _to_heads(self, *parts: Tensor) -> Sequence[Tensor]:
        """Each [rows, T/S, heads, w] → [rows, T, heads/S, w], in one exchange."""
        dealt = [part.unflatten(2, (self.axis.size, -1)) for part in parts]
        found = self._exchanged(torch.cat(dealt, dim=3).movedim(2, 0))  # [S, rows, T/S, all heads/S, w]
        return found.movedim(0, 1).flatten(1, 2).split([part.shape[3] for part in dealt], dim=2)

    def _to_columns(self, seen: Tensor) -> Tensor:
        """[rows, T, heads/S, w] → [rows, T/S, heads, w]."""
        found = self._exchanged(seen.unflatten(1, (self.axis.size, -1)).movedim(1, 0))
        return found.movedim(0, 2).flatten(2, 3)

    def _exchanged(self, x: Tensor) -> Tensor:
        """[S, …]: number s is what rank s had for this one, for what this one has for rank s."""
        return _AllToAll.apply(x, self._group)


WHOLE_ROWS = SequenceColumns(Axis(0, 1), None)
"""All columns on one rank."""


def sequence_columns(world: World) -> SequenceColumns:
    """This rank's. A collective."""
    if world.mesh.sequence.size == 1:
        return WHOLE_ROWS
    return SequenceColumns(world.mesh.sequence, group_along(world, "sequence"))


class _AllToAll(torch.autograd.Function):
    """Its backward pass is itself: what was sent comes back as a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup) -> Tensor:
        """x [S, …]: part s is rank s's; what all ranks have sent to this one."""
        ctx.group = group
        return _all_to_all(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The way back."""
        return _all_to_all(grad, ctx.group), None


def _all_to_all(x: Tensor, group: distributed.ProcessGroup) -> Tensor:
    x = x.contiguous()  # first: empty_like keeps the strides of what was permuted, and sends go by memory
    found = torch.empty_like(x)
    distributed.all_to_all_single(found, x, group=group)
    return found
