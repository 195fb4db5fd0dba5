"""Where each piece of each parameter lies on this rank: the map between DeepSpeed's flat masters and names.

Every ZeRO stage keeps the fp32 master weights and their two Adam moments in flat tensors whose division over
ranks it alone knows. A Fragment says: elements [offset, offset + length) of the flattened parameter `name`
are elements [position, …) of this rank's n-th flat. With that map a checkpoint is written and read without a
gather and without a conversion between layouts.

The map reads private names of DeepSpeed, so `check_guard` stands beside it: the rounded master must equal the
weight that the model computes with, piece by piece. It runs after the start, after a load and after the first
step, when a wrong map can no longer hide behind equal values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class LayoutMismatch(Exception):
    """The map does not describe what DeepSpeed holds: a bug, or a release whose private names changed."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements [offset, offset + length) of parameter `name` at [position, …) of flat number `flat`."""

    name: str
    offset: int
    length: int
    flat: int
    position: int


class StateMap:
    """This rank's masters, moments and the fragments in them.

    held: what this rank computes with, and loads. owned: what it saves; over all ranks each element once.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        flats: Sequence[Tensor],
        held: Sequence[Fragment],
        owned: Sequence[Fragment],
        shapes: dict[str, tuple[int, ...]],
        refresh: Callable[[], None],
        local_weight: Callable[[nn.Parameter, Fragment], Tensor],
    ) -> None:
        self.flats, self.held, self.owned, self.shapes = list(flats), list(held), list(owned), shapes
        self.refresh = refresh
        """Bring the model's weights up to date with the masters. A collective."""
        self._parameters = dict(module.named_parameters())
        self._local_weight = local_weight
        self._state = optimizer.state
        for flat in self.flats:
            # What AdamW would make at its first step, made now: a load then finds it in place.
            if not self._state[flat]:
                self._state[flat].update(
                    step=torch.zeros((), dtype=torch.float32, device=flat.device),
                    exp_avg=torch.zeros_like(flat, requires_grad=False),
                    exp_avg_sq=torch.zeros_like(flat, requires_grad=False),
                )

    def tensor(self, flat: int, kind: str) -> Tensor:
        """The flat master ('w') or moment, float32 [n], detached but not copied."""
        if kind == "w":
            return self.flats[flat].detach().view(-1)
        return self._state[self.flats[flat]][kind].view(-1)

    def piece(self, fragment: Fragment, kind: str) -> Tensor:
        """A fragment's elements, float32 [length], not copied."""
        return self.tensor(fragment.flat, kind).narrow(0, fragment.position, fragment.length)

    @property
    def adam_step(self) -> int:
        """Updates that Adam has made, for its bias correction; the same on every rank and for every flat."""
        steps = {int(self._state[flat]["step"]) for flat in self.flats}
        if len(steps) > 1:
            raise LayoutMismatch(f"Adam counts {sorted(steps)} steps for different parameters")
        return steps.pop() if steps else 0

    @adam_step.setter
    def adam_step(self, step: int) -> None:
        for flat in self.flats:
            self._state[flat]["step"].fill_(step)

    def check_guard(self) -> None:
        """LayoutMismatch unless each held master piece, rounded, is the model's own weight."""
        for fragment in self.held:
            weight = self._local_weight(self._parameters[fragment.name], fragment)
            master = self.piece(fragment, "w").to(weight.dtype)
            if not ((weight == master) | (weight.isnan() & master.isnan())).all():
                raise LayoutMismatch(
                    f"{fragment.name}[{fragment.offset}:{fragment.offset + fragment.length}]: the model's "
                    "weight is not its rounded master; this DeepSpeed release lays them out in another way"
                )


def state_map(engine: Any, zero: int, rank: int, size: int) -> StateMap:
    """The map of a DeepSpeed engine of ZeRO stage `zero`. Does not move data."""
    module = engine.module
    named = dict(module.named_parameters())
    if zero == 0:
        held = [Fragment(name, 0, p.numel(), i, 0) for i, (name, p) in enumerate(named.items())]
        return StateMap(
            module,
            engine.optimizer,
            list(named.values()),
            held,
            list(_slices(held, rank, size)),
            {name: tuple(p.shape) for name, p in named.items()},
            refresh=lambda: None,
            local_weight=lambda p, f: p.detach().view(-1).narrow(0, f.offset, f.length),
        )
    optimizer = engine.optimizer
    if zero == 3:
        held = list(_stage_3(optimizer, named))
        return StateMap(
            module,
            optimizer.optimizer,
            optimizer.fp32_partitioned_groups_flat,
            held,
            held,
            {name: tuple(p.ds_shape) for name, p in named.items()},
            refresh=lambda: _refresh_stage_3(optimizer),
            local_weight=lambda p, f: _part(p).narrow(0, 0, f.length),
        )
    held = list(_stages_1_and_2(named))
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    return StateMap(
        module,
        optimizer.optimizer,
        optimizer.fp32_groups_flat_partition if flats is None else flats,
        held,
        held,
        {name: tuple(p.shape) for name, p in named.items()},
        refresh=optimizer.update_lp_params,
        local_weight=lambda p, f: p.detach().view(-1).narrow(0, f.offset, f.length),
    )


def _slices(held: Iterable[Fragment], rank: int, size: int) -> Iterable[Fragment]:
    """This rank's even share of each whole parameter: every copy is the same, so each is written once."""
    for fragment in held:
        begin, end = (fragment.length * r // size for r in (rank, rank + 1))
        if end > begin:
            yield Fragment(fragment.name, begin, end - begin, fragment.flat, begin)


def _stages_1_and_2(named: dict[str, nn.Parameter]) -> Iterable[Fragment]:
    """Also BF16_Optimizer, which links its masters in the same way. None: nothing of it is on this rank."""
    for name, parameter in named.items():
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            continue
        low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
        if low.numel:
            yield Fragment(name, low.start, low.numel, mapping.param_group_index, high.start)


def _stage_3(optimizer: Any, named: dict[str, nn.Parameter]) -> Iterable[Fragment]:
    """Each parameter is cut into equal parts by itself; the last is padded with whatever was in memory."""
    for name, parameter in named.items():
        flat, position, part = optimizer.grad_position[optimizer.get_param_id(parameter)]
        offset = part * optimizer._get_param_partition_rank(parameter)
        length = min(part, parameter.ds_numel - offset)  # type: ignore[attr-defined]
        if length > 0:
            yield Fragment(name, offset, length, flat, position)


def _part(parameter: Any) -> Tensor:
    return parameter.ds_tensor.detach().view(-1)


@torch.no_grad()
def _refresh_stage_3(optimizer: Any) -> None:
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    persistent = optimizer.persistent_parameters
    if persistent:  # small ones stay whole on every rank between steps
        persistent[0].all_gather(persistent)
