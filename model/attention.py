"""The rule of who sees whom, and the back ends that compute attention under it.

The whole rule (docs/design/rows.md): position i attends to position j of its row iff start[i] ≤ j ≤ bound[i].
Causal, bidirectional and prefix segments, packed side by side in any mixture, are all spelled by these two
integers.

A back end is a function (start, bound) → Kernel, called once a micro-batch; a Kernel computes attention for
the queries, keys and values of any layer. Each back end refuses in words what it cannot do:

    dense    one boolean mask over the row: any rule, any device; the cost grows with T² whatever the segments
    segments each segment by itself: the cost is that of the segments; reads start and bound on the host
    causal   one call without mask; only where every row is one causal segment
    flex     FlexAttention over the blocks of the row in which somebody sees somebody; CUDA only
    auto     the cheapest of these here
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from model.segments import Group, groups

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(queries [rows, T, heads, w], keys [rows, T, kv heads, w], values, dropout) → [rows, T, heads, w]."""

SEGMENT_COST = 6000
"""What a group of segments costs beside its arithmetic, in (position, position) pairs of the dense back end.

Measured on two AVX2 cores, forward and backward: about 0.16 ms a group, against 28 ns a pair with 4 heads of
width 16 and 88 ns with 6 of width 64, thus 6000 to 1800 pairs. A mistake in the small matters little: either
choice is then within a few per cent of the other.
"""

BLOCK = 128
"""Positions of a block of FlexAttention's mask: its own default."""
SHORTEST_FLEX = 2048
"""Shorter rows have few blocks to leave out, and one mask needs no compiler. Measured on an H100, over causal
attention without packing: at T 512 dense 1.5 and flex 1.8, at 2048 2.3 and 2.0, at 4096 2.8 and 1.4."""


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


def causal(start: Tensor, bound: Tensor) -> Kernel:
    """No mask at all. ValueError unless every row is one causal segment."""
    position = torch.arange(start.shape[1], device=start.device, dtype=start.dtype)
    if start.any() or (bound != position).any():
        raise ValueError(
            "attention: causal needs rows of one causal segment each, without padding; choose auto or dense"
        )

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        return attention(q, k, v, dropout, causal=True)

    return attend


def segments(start: Tensor, bound: Tensor) -> Kernel:
    """Each group of segments in a call of its own. Segments of one position ignore dropout."""
    return _by_segment(groups(start.cpu().numpy(), bound.cpu().numpy()), start.device)


def _by_segment(found: list[Group], device: torch.device) -> Kernel:
    sizes = [group.count * group.length for group in found]
    alone = all(group.shape == "single" for group in found)
    masks = {}
    for number, group in enumerate(found):
        if group.bound is not None:
            reach = torch.as_tensor(group.bound, device=device)[None]
            masks[number] = visible(torch.zeros_like(reach), reach, group.length)[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        cut = [x.flatten(0, 1).split(sizes) for x in (q, k, v)]
        out = []
        for number, (group, *parts) in enumerate(zip(found, *cut)):
            if group.shape == "single":
                out.append(parts[2].repeat_interleave(q.shape[2] // v.shape[2], dim=1))
                continue
            own = [x.unflatten(0, (group.count, group.length)) for x in parts]
            q_own, k_own, v_own = own
            is_causal = group.shape == "causal"
            seen = attention(q_own, k_own, v_own, dropout, masks.get(number), is_causal)
            out.append(seen.flatten(0, 1))
        if alone:  # nothing of q and k: they have a gradient all the same, which engines of all ranks await
            out += [x.flatten(0, 1)[:0].repeat_interleave(q.shape[2] // x.shape[2], dim=1) for x in (q, k)]
        return (torch.cat(out) if len(out) > 1 else out[0]).view_as(q)

    return attend


def auto(start: Tensor, bound: Tensor) -> Kernel:
    """On the CPU segments, unless they are so many and small that one mask is cheaper; elsewhere dense, or
    flex where attention_context.back_end finds that it fits."""
    rows, length = start.shape
    if start.device.type != "cpu":
        return dense(start, bound)
    found = groups(start.numpy(), bound.numpy())
    if len(found) > 1 and len(found) * SEGMENT_COST > rows * length**2:
        return dense(start, bound)
    return _by_segment(found, start.device)


def flex(start: Tensor, bound: Tensor) -> Kernel:
    """FlexAttention (Dong et al. 2024): blocks of the mask that are empty or full are never looked into."""
    if start.device.type != "cuda":
        raise ValueError(
            f"attention: flex needs a CUDA device, not {start.device.type} (elsewhere it has no backward "
            "pass); choose auto"
        )
    mask = block_mask(start, bound)

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        if dropout:
            raise ValueError("attention: flex has no dropout; choose dense")
        heads = (x.transpose(1, 2) for x in (q, k, v))
        kernel: Any = flex_attention if torch.compiler.is_compiling() else _flex_kernel()
        return kernel(*heads, block_mask=mask, enable_gqa=q.shape[2] != k.shape[2]).transpose(1, 2)

    return attend


def block_mask(start: Tensor, bound: Tensor) -> BlockMask:
    """The rule for FlexAttention: of each block of queries which blocks of keys are seen in part and which
    throughout. What a query sees is an interval, so its ends tell, and no T × T mask is ever made."""
    rows, length = start.shape
    blocks = -(-length // BLOCK)
    beyond = blocks * BLOCK - length  # queries that are not there see nothing
    from_ = F.pad(start, (0, beyond), value=length).view(rows, blocks, BLOCK, 1)
    to = F.pad(bound, (0, beyond), value=-1).view(rows, blocks, BLOCK, 1)
    first = torch.arange(0, blocks * BLOCK, BLOCK, device=start.device, dtype=start.dtype)
    last = first + BLOCK - 1
    full = ((from_ <= first) & (last <= to)).all(2)
    partial = ((from_ <= last) & (first <= to) & (from_ <= to)).any(2) & ~full

    def listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
        """How many are chosen, and their numbers before those of the others."""
        order = torch.argsort((~chosen).byte(), dim=-1, stable=True)
        return chosen.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]

    return BlockMask.from_kv_blocks(
        *listed(partial),
        *listed(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=rule(start, bound),
        seq_lengths=(length, length),
    )


def rule(start: Tensor, bound: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule as FlexAttention asks for it: (row, head, query, key) → visible."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (start[row, query] <= key) & (key <= bound[row, query])

    return sees


@lru_cache(maxsize=1)
def _flex_kernel() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


BACK_ENDS: dict[str, Callable[[Tensor, Tensor], Kernel]] = {
    "auto": auto,
    "dense": dense,
    "segments": segments,
    "causal": causal,
    "flex": flex,
}
