"""Copies that have to be equal on several ranks: what a rank holds, its hash, and who differs from whom.

    rank 0   {"weight head.norm.weight": 71…, "exp_avg head.norm.weight": 12…, "Adam's step": 500}
    rank 1   {"weight head.norm.weight": 71…, "exp_avg head.norm.weight": 12…, "Adam's step": 500}
    rank 2   {"weight head.norm.weight": 90…, …}           → "weight head.norm.weight": rank 2 against 0, 1

A label says what a tensor is, and from whom it differs if it may: whoever reports the same label must report
the same hash. So the comparison knows nothing of layouts. Whole weights meet on data-parallel ranks, a tied
table on the first and the last stage; a part that one rank alone has meets nobody, and is not even hashed.

The hash is taken where the tensor lies, in chunks, from the bits of its elements as integers x:

    Σ (2i + 1) · xᵢ   modulo 2⁶⁴

Elements have at most 32 bits and the factors are odd, so any single element that differs changes it, and so
do any two that are exchanged, or any two bits that flip, in tensors of up to 2³¹ elements.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.distributed.collectives import gather
from launcher.distributed.mesh import Mesh
from launcher.distributed.world import World
from launcher.engine.deepspeed.start import undivided_shape
from launcher.engine.sharded_state import Fragment, StateMap
from model.transformer import Transformer

CACHED, LARGE = 1 << 17, 1 << 22
"""Elements that are hashed at a time: on a CPU what its cache holds, on a GPU what keeps it busy."""

Held = Iterable[tuple[str, Tensor | int]]
"""(label, what this rank holds under it): a tensor, or a whole number as it stands."""


def held_copies(model: Transformer, state: StateMap, mesh: Mesh) -> Iterator[tuple[str, Tensor | int]]:
    """What an engine holds: its weights, but for those that ZeRO 3 has divided; masters, moments and what
    else is kept beside them; Adam's count. Nothing is copied."""
    named = model.named_weights()
    for name, weight in named.items():
        local = undivided_shape(weight)  # of this rank's part, where tensor ranks share it
        if tuple(weight.shape) == local:
            cut = "" if local == tuple(state.shapes[name]) else f" of tensor rank {mesh.tensor.rank}"
            yield f"weight {name}{cut}", weight.detach()
    for fragment in state.held:
        place = _place(fragment, state.shapes[fragment.name])
        for kind in state.kinds:
            if kind == "w" and state.flats[fragment.flat] is named[fragment.name]:
                continue  # ZeRO 0: the weight is the master
            word = "master" if kind == "w" else kind
            yield f"{word} {fragment.name}{place}", state.piece(fragment, kind)
    yield "Adam's step", state.adam_step


def _place(fragment: Fragment, shape: Sequence[int]) -> str:
    """Nothing for a whole parameter, else which of its elements."""
    if fragment.length == torch.Size(shape).numel():
        return ""
    stride = "" if fragment.run is None else f", {fragment.run} of every {fragment.stride}"
    return f"[{fragment.offset}+{fragment.length}{stride}]"


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """The hash, int64 [], on the tensor's device; of its elements in their order, whatever its shape."""
    bits = tensor.detach().reshape(-1)
    bits = bits.view(torch.int32 if bits.element_size() % 4 == 0 else torch.int16)
    size = min(CACHED if bits.device.type == "cpu" else LARGE, max(1, len(bits)))
    factors = torch.arange(1, 2 * size, 2, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for begin in range(0, len(bits), size):
        part = bits[begin : begin + size].long()
        total += 2 * begin * part.sum()
        total += part.mul_(factors[: len(part)]).sum()
    return total


def digests(held: Held, shared: frozenset[str]) -> dict[str, int]:
    """The hashes of what stands under these labels."""
    return {
        label: what if isinstance(what, int) else int(digest(what)) for label, what in held if label in shared
    }


@dataclass(frozen=True)
class Mismatch:
    """A label under which ranks hold different things."""

    label: str
    groups: tuple[tuple[int, ...], ...]
    """Ranks that agree with each other; the most first, of as many those with the lowest rank."""

    def __str__(self) -> str:
        """'weight head.norm.weight: rank 3 is not as ranks 0, 1, 2'."""
        if len(self.groups) == 2 and len(self.groups[0]) > len(self.groups[1]):
            most, odd = self.groups
            verb = "is" if len(odd) == 1 else "are"
            return f"{self.label}: {_ranks(odd)} {verb} not as {_ranks(most)}"
        return f"{self.label}: differs between {' and '.join(_ranks(group) for group in self.groups)}"

    @property
    def odd(self) -> tuple[int, ...]:
        """The ranks that are outvoted; none where no group is the largest."""
        most, *others = self.groups
        return tuple(sorted(sum(others, ()))) if all(len(most) > len(one) for one in others) else ()


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def mismatches(by_rank: Sequence[Mapping[str, int]]) -> list[Mismatch]:
    """What the ranks that report a label do not report alike, in the order in which it is first reported."""
    found = []
    for label in dict.fromkeys(label for one in by_rank for label in one):
        groups: dict[int, list[int]] = {}
        for rank, one in enumerate(by_rank):
            if label in one:
                groups.setdefault(one[label], []).append(rank)
        if len(groups) > 1:
            ordered = sorted(groups.values(), key=lambda ranks: (-len(ranks), ranks))
            found.append(Mismatch(label, tuple(map(tuple, ordered))))
    return found


def shared_labels(world: World, held: Held) -> frozenset[str]:
    """Those of this rank's labels that another rank reports too. A collective."""
    by_rank = gather(world, [label for label, _ in held])
    others = by_rank[: world.rank] + by_rank[world.rank + 1 :]
    return frozenset(by_rank[world.rank]).intersection(itertools.chain.from_iterable(others))


def compare(world: World, held: Held, shared: frozenset[str]) -> list[Mismatch]:
    """Hash what other ranks hold too, and compare; the same list on every rank. A collective."""
    return mismatches(gather(world, digests(held, shared)))
