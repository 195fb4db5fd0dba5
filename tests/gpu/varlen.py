"""Packed segments for varlen kernels, which know "full" and "causal" sequences of any lengths in a row.

A segment is a prefix whose positions see each other and a rest that sees all before it; a causal segment has
no prefix, a bidirectional one no rest. So two calls do for every mixture:

    full      queries of the prefix   keys of the prefix
    causal    queries of the rest     keys of the whole segment, the last query over the last key

The second needs "bottom right" alignment, which FlashAttention's kernels have.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.attention import Kernel

Varlen = Callable[[Tensor, Tensor, Tensor, "VarlenCall"], Tensor]
"""(queries [positions, heads, w], keys, values, call) → like the queries."""


@dataclass(frozen=True)
class VarlenCall:
    """The sequences of one call. Positions are counted through all rows."""

    queries: Tensor
    """int64: which positions ask, sequence after sequence."""
    keys: Tensor
    query_ends: Tensor
    """int32 [sequences + 1]: where each sequence's queries begin and end."""
    key_ends: Tensor
    most_queries: int
    most_keys: int
    causal: bool


def varlen_calls(start: Tensor, bound: Tensor) -> list[VarlenCall]:
    """The calls for int [rows, T] start and bound. ValueError for other segments than these."""
    length = start.shape[1]
    full: list[tuple[int, int, int]] = []
    causal: list[tuple[int, int, int]] = []
    for row, (starts, bounds) in enumerate(zip(start.cpu().numpy(), bound.cpu().numpy())):
        edges = np.flatnonzero(np.diff(starts, prepend=-1)).tolist()
        for first, end in zip(edges, [*edges[1:], length]):
            at = np.arange(first, end)
            prefix = first if bounds[first] == first else int(bounds[first]) + 1
            expected = np.where(at < prefix, prefix - 1, at)
            if starts[first] != first or not np.array_equal(bounds[first:end], expected):
                raise ValueError(f"row {row}, positions {first} to {end}: no prefix, causal or full segment")
            base = row * length
            if prefix > first:
                full.append((base + first, base + prefix, base + first))
            if end > prefix:
                causal.append((base + prefix, base + end, base + first))
    return [
        _call(found, is_causal, start.device) for found, is_causal in ((full, False), (causal, True)) if found
    ]


def _call(found: list[tuple[int, int, int]], causal: bool, device: torch.device) -> VarlenCall:
    """found: (first query, end, first key) of each sequence."""

    def together(spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor, int]:
        lengths = [end - first for first, end in spans]
        index = np.concatenate([np.arange(first, end) for first, end in spans])
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return torch.from_numpy(index).to(device), torch.from_numpy(ends).to(device), max(lengths)

    queries, query_ends, most_queries = together([(first, end) for first, end, _ in found])
    keys, key_ends, most_keys = together([(key, end) for _, end, key in found])
    return VarlenCall(queries, keys, query_ends, key_ends, most_queries, most_keys, causal)


def varlen_kernel(attend: Varlen, start: Tensor, bound: Tensor) -> Kernel:
    """A Kernel of model/attention.py made of such calls; where positions are gathered is part of it."""
    calls = varlen_calls(start, bound)
    order = torch.argsort(torch.cat([call.queries for call in calls]))

    def kernel(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
        out = [
            attend(
                flat_q.index_select(0, call.queries),
                flat_k.index_select(0, call.keys),
                flat_v.index_select(0, call.keys),
                call,
            )
            for call in calls
        ]
        return torch.cat(out).index_select(0, order).view_as(q)

    return kernel
