"""Rotary positions: queries and keys are turned by an angle that grows with the position in the segment.

RoFormer (Su et al. 2021) in the half-split form that Llama checkpoints use: feature f of the first half is
paired with feature f of the second. The angles depend on i − start[i] alone, so a segment is turned the same
wherever packing laid it. They are computed in float32 once a micro-batch and live in no buffer: a cast of
the model to bf16 would otherwise cast them too, and far positions would fall together.
"""

import torch
from torch import Tensor


def rotary_cos_sin(position: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [rows, T, 1, width/2], of the angles position · base^(−2f/width), f < width/2."""
    f = torch.arange(width // 2, dtype=torch.float32, device=position.device)
    angle = position.to(torch.float32)[:, :, None, None] * base ** (-2.0 * f / width)
    return angle.cos(), angle.sin()


class _Rotary(torch.autograd.Function):
    """One pass forward, one pass backward by the opposite angle; autograd's own graph would take six."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    low, high = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=low).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=high).addcmul_(first, sin)
    return out.to(x.dtype)


def apply_rotary(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """x [rows, T, heads, width] turned by `cos_sin` = (cos, sin), computed in float32, in the dtype of x."""
    if torch.compiler.is_compiling():  # it makes one pass of this, and of the above it would make many
        (cos, sin), (first, second) = cos_sin, x.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return _Rotary.apply(x, *cos_sin)
