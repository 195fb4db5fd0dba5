"""Tensor parallelism: a group of ranks that share every block, each with some of its heads and features.

Megatron's cut (Shoeybi et al. 2019) of the model's own blocks (model/share.py), on the same rows:

    x ─▶ enter ─▶ qkv, own rows ─▶ own heads ─▶ out, own columns ─▶ leave ─▶ + x        and so gate, up, down
         forward:   as it is                                        sum over the group
         backward:  sum over the group                              as it is

A block speaks twice forward and twice backward. What stands between (norms, tables, the Head) each rank has
whole and computes alike, from sums that all have bit for bit, so those weights stay equal without a word. The
gains within attention see only their rank's heads: they too `enter`. The norm of the gradient counts those
weights on the first rank alone; `Uncounted` looks at the others'.

    qkv [q | k | v rows, inputs], rank 1 of 2        out [outputs, inputs], rank 1 of 2
    three stretches of the flattened weight          a run of each row: one cut with a stride

So a cut weight is, of the whole one, what `cuts_of` says, and ZeRO's piece of it is a cut of those cuts.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from launcher.distributed.mesh import Axis
from launcher.engine.cut import Cut
from model.share import Sections, Share


def share_of(axis: Axis, group: Any) -> Share:
    """What a rank of a tensor group has, and how the group adds up."""
    return Share(axis.rank, axis.size, lambda x: _Enter.apply(x, group), lambda x: _Leave.apply(x, group))


def _sum(x: Tensor, group: Any) -> Tensor:
    """Over the group, in memory of its own: a reduction of what is not contiguous would be lost unsaid."""
    x = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x, group=group)
    return x


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """As it is."""
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The sum over the group."""
        return _sum(gradients[0], ctx.group), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """The sum over the group."""
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """As it is."""
        return gradients[0], None


class Uncounted:
    """Whether the gradients are numbers that no norm counts: of a weight that all tensor ranks have whole
    they are alike, so DeepSpeed's norm and ours have the first rank's alone. Were another's no number, by a
    fault of its own, it would be applied unseen."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        """Watches these. To be made before DeepSpeed is started, whose own hooks take gradients away."""
        self._largest: Tensor | None = None
        for weight in weights:
            weight.register_post_accumulate_grad_hook(self._see)

    def _see(self, weight: Tensor) -> None:
        assert weight.grad is not None
        largest = torch.linalg.vector_norm(weight.grad, ord=torch.inf)  # of a NaN it is NaN
        self._largest = largest if self._largest is None else self._largest + largest

    def are_numbers(self) -> bool:
        """Of the backward passes since the last call."""
        largest, self._largest = self._largest, None
        return largest is None or bool(largest.isfinite())


def whole_shape(part: Sequence[int], sections: Sections | None) -> tuple[int, ...]:
    """The shape of the whole weight of which a rank has a part of shape `part`. sections: None where it is
    not shared."""
    shape = list(part)
    if sections is not None:
        shape[sections.dim] = sum(sections.sizes)
    return tuple(shape)


def cuts_of(shape: Sequence[int], sections: Sections, axis: Axis) -> list[Cut]:
    """Which elements of the whole weight of that shape a rank has, in the order in which it has them."""
    outputs, inputs = shape
    if sections.dim == 1:
        run = inputs // axis.size
        return [Cut.of(axis.rank * run, outputs * run, run, inputs)]
    cuts, begin = [], 0
    for size in sections.sizes:
        rows = size // axis.size
        cuts.append(Cut.of((begin + axis.rank * rows) * inputs, rows * inputs))
        begin += size
    return cuts


def gathered(part: Tensor, sections: Sections, group: Any) -> Tensor:
    """The whole weight of which this rank has a part. A collective of the group."""
    parts = [torch.empty_like(part) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, part.contiguous(), group=group)
    return joined(parts, sections)


def joined(parts: Sequence[Tensor], sections: Sections) -> Tensor:
    """The whole weight, of the parts of all ranks in order."""
    own = [size // len(parts) for size in sections.sizes]
    by_section = zip(*(part.split(own, dim=sections.dim) for part in parts))
    return torch.cat([piece for section in by_section for piece in section], dim=sections.dim)
