"""Who sees whom, and the back ends that compute it.

The whole rule (DESIGN §3): position i attends to position j of its row iff start[i] ≤ j ≤ bound[i]. Causal,
bidirectional and prefix pieces, packed side by side in any mixture, are all spelled by these two integers.

A `Visibility` is made from them once a micro-batch, and every block is handed the same one: masks, piece
lists and angles are not made again for each layer. It consists of plain tensors' consequences, so a stage
that was sent only the two integer arrays makes an equal one for itself.

A back end is a function (start, bound) → Kernel, and a Kernel computes attention for queries, keys and values
of the shape [rows, T, heads, head width]. Each says what it cannot do:

    dense    one boolean mask over the row; any rule, any device; cost grows with T² whatever the pieces
    pieces   each piece by itself; cost grows with the pieces' own lengths; reads the arrays on the host
    causal   the fastest; only where every row is one causal piece
    flex     FlexAttention with a block mask; CUDA only, no dropout
    auto     the cheapest of dense, pieces and causal, by what was measured on CPU (`choose`)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.rotary import rotation

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(queries [rows, T, heads, w], keys [rows, T, kv heads, w], values, dropout) → [rows, T, heads, w]."""


@dataclass(frozen=True)
class Visibility:
    """What the positions of a micro-batch may see, and where they stand in their pieces."""

    place: Tensor  # [rows, T]: i − start[i]
    angles: tuple[Tensor, Tensor] | None  # of rotary positions
    attend: Kernel


def see(start: Tensor, bound: Tensor, config: ModelConfig) -> Visibility:
    """The Visibility of a micro-batch from its two arrays, int [rows, T]."""
    positions = torch.arange(start.shape[1], device=start.device, dtype=start.dtype)
    place = positions - start
    angles = rotation(place, config.head_width, config.rope_base) if config.positions == "rope" else None
    return Visibility(place, angles, BACK_ENDS[config.attention](start, bound))


def attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """softmax(q·kᵀ/√w)·v in the shapes of Kernel. mask: bool, broadcast over heads, True = visible."""
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def visible(start: Tensor, bound: Tensor, keys: int) -> Tensor:
    """bool [rows, queries, keys]: the rule itself."""
    j = torch.arange(keys, device=start.device, dtype=start.dtype)
    return (start[:, :, None] <= j) & (j <= bound[:, :, None])


def dense(start: Tensor, bound: Tensor, keys: int | None = None) -> Kernel:
    """One boolean mask, shared by the heads. keys: their number where it is not that of the queries."""
    mask = visible(start, bound, keys or start.shape[1])[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        return attention(q, k, v, dropout, mask=mask)

    return attend


BACK_ENDS: dict[str, Callable[[Tensor, Tensor], Kernel]] = {"dense": dense, "auto": dense}
