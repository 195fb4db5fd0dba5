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
from launcher.engine.cut import Cut, narrowed
from launcher.engine.deepspeed.start import undivided_shape
from launcher.engine.parallel.tensor import cuts_of, whole_shape
from launcher.engine.sharded_state import Fragment, StateMap
from model.transformer import Transformer


def state_map(engine: Any, zero: int, model: Transformer, world: World) -> StateMap:
    """The map of a DeepSpeed engine of ZeRO stage `zero` around `model`, whole or a rank's part. Moves no
    data; in stage 3 clears the masters, so that their padding is zero, and not whatever was in memory."""
    named: dict[str, Any] = dict(model.named_weights())
    parts = _Parts(named, model, world)
    optimizer = engine.optimizer
    if zero == 0:
        pieces = [Fragment(name, 0, p.numel(), i, 0) for i, (name, p) in enumerate(named.items())]
        return StateMap(
            named,
            optimizer,
            list(named.values()),
            parts.of_the_whole(pieces),
            parts.once(parts.of_the_whole(_slices(pieces, *world.mesh.replicas))),
            parts.shapes,
            refresh=lambda: None,
            local_weight=parts.weight,
        )
    if zero == 3:
        held = parts.of_the_whole(_stage_3(optimizer, named), divided=True)
        for flat in optimizer.fp32_partitioned_groups_flat:
            flat.detach().zero_()
        return StateMap(
            named,
            optimizer.optimizer,
            optimizer.fp32_partitioned_groups_flat,
            held,
            parts.once(held),
            parts.shapes,
            refresh=lambda: _refresh_stage_3(optimizer),
            local_weight=parts.weight,
        )
    held = parts.of_the_whole(_stages_1_and_2(named))
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None)
    return StateMap(
        named,
        optimizer.optimizer,
        optimizer.fp32_groups_flat_partition if flats is None else flats,
        held,
        parts.once(held),
        parts.shapes,
        refresh=optimizer.update_lp_params,
        local_weight=parts.weight,
    )


class _Parts:
    """From the parameters that this rank has to the whole ones, of which tensor parallelism leaves it a part:
    DeepSpeed knows only the former, a checkpoint only the latter."""

    def __init__(self, named: dict[str, Any], model: Transformer, world: World) -> None:
        tensor, sections = world.mesh.tensor, model.shared_weights()
        own = {name: undivided_shape(p) for name, p in named.items()}
        self.shapes = {name: whole_shape(shape, sections.get(name)) for name, shape in own.items()}
        """Of the whole parameters."""
        self._cuts = {
            name: cuts_of(shape, sections[name], tensor) if name in sections else [Cut.of(0, shape.numel())]
            for name, shape in ((name, torch.Size(shape)) for name, shape in self.shapes.items())
        }
        self._saved = model.counted_weights().keys()
        self._begins: dict[tuple[str, int], int] = {}

    def of_the_whole(self, pieces: Iterable[Fragment], divided: bool = False) -> list[Fragment]:
        """Pieces of this rank's parameters as fragments of the whole ones: a piece that spans several cuts,
        or begins within a run, becomes several. divided: of a parameter the rank has the piece alone."""
        found = []
        for piece in pieces:
            done = 0
            for cut in narrowed(self._cuts[piece.name], piece.offset, piece.length):
                first, length, *runs = cut.numbers
                found.append(Fragment(piece.name, first, length, piece.flat, piece.position + done, *runs))
                self._begins[piece.name, first] = done + (0 if divided else piece.offset)
                done += length
        return found

    def once(self, held: Iterable[Fragment]) -> list[Fragment]:
        """Those that this rank saves."""
        return [fragment for fragment in held if fragment.name in self._saved]

    def weight(self, parameter: Any, fragment: Fragment) -> Tensor:
        """A held fragment's elements of the model's own weight."""
        own = getattr(parameter, "ds_tensor", parameter).detach().view(-1)
        return own.narrow(0, self._begins[fragment.name, fragment.offset], fragment.length)


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


@torch.no_grad()
def _refresh_stage_3(optimizer: Any) -> None:
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    persistent = optimizer.persistent_parameters
    if persistent:  # small ones stay whole on every rank between steps
        persistent[0].all_gather(persistent)
