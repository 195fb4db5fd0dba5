"""Where DeepSpeed keeps each fragment of each parameter: how a StateMap is read off it.

The map reads private names of DeepSpeed, and each ZeRO stage has its own:

    stage 0     the parameters themselves are the masters; every rank holds all and saves an even share
    stages 1, 2 `_hp_mapping` of a parameter: its address in the half-precision and in the fp32 flat
    stage 3     `grad_position` of the optimizer: flat, position and the size of a rank's part

StateMap.check_guard tells when a release lays them out in another way.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from launcher.distributed.world import World
from launcher.engine.sharded_state import Fragment, StateMap
from model.transformer import Transformer


def state_map(engine: Any, zero: int, model: Transformer, world: World) -> StateMap:
    """The map of a DeepSpeed engine of ZeRO stage `zero` around `model`, whole or a stage's part. Moves no
    data; in stage 3 clears the masters, so that their padding is zero, and not whatever was in memory."""
    named: dict[str, Any] = dict(model.named_weights())
    if zero == 0:
        held = [Fragment(name, 0, p.numel(), i, 0) for i, (name, p) in enumerate(named.items())]
        return StateMap(
            named,
            engine.optimizer,
            list(named.values()),
            held,
            _once(model, _slices(held, *world.mesh.replicas)),
            {name: tuple(p.shape) for name, p in named.items()},
            refresh=lambda: None,
            local_weight=lambda p, f: p.detach().view(-1).narrow(0, f.offset, f.length),
        )
    optimizer = engine.optimizer
    if zero == 3:
        held = list(_stage_3(optimizer, named))
        for flat in optimizer.fp32_partitioned_groups_flat:
            flat.detach().zero_()
        return StateMap(
            named,
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
        named,
        optimizer.optimizer,
        optimizer.fp32_groups_flat_partition if flats is None else flats,
        held,
        _once(model, held),
        {name: tuple(p.shape) for name, p in named.items()},
        refresh=optimizer.update_lp_params,
        local_weight=lambda p, f: p.detach().view(-1).narrow(0, f.offset, f.length),
    )


def _once(model: Transformer, held: Iterable[Fragment]) -> list[Fragment]:
    """Without those of a tied table whose other copy, the first stage's, is the one that is saved."""
    twin = model.twin
    names = {name for name, p in model.named_weights().items() if p is not twin}
    return [fragment for fragment in held if fragment.name in names]


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
    """Each parameter is cut into equal parts by itself; the last is padded."""
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
