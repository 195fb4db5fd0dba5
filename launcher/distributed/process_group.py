"""Connecting the ranks: torch.distributed with a time-out that everything obeys.

torch's time-out argument reaches the default group only, and DeepSpeed makes groups of its own with torch's
30 minutes; so the default of all later groups is set first.
"""

import datetime
from typing import Any

import torch
from torch import distributed
from torch.distributed import distributed_c10d

from launcher.distributed.collectives import found_by_all, gather
from launcher.distributed.mesh import mesh, ranks_along
from launcher.distributed.world import World


def connect(world: World, timeout: float = 600.0) -> None:
    """Join the other ranks; `timeout` in seconds bounds the wait for them here and in every collective."""
    span = datetime.timedelta(seconds=timeout)
    distributed_c10d.default_pg_timeout = span
    rendezvous: dict[str, Any] = (
        {"init_method": world.rendezvous} if world.rendezvous else {"store": distributed.HashStore()}
    )
    device = device_of(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        rank=world.rank,
        world_size=world.size,
        timeout=span,
        **rendezvous,
    )
    if device.type == "cuda":
        refuse_shared(world, torch.cuda.get_device_properties(device))


def refuse_shared(world: World, gpu: Any) -> None:
    """BadInput on all ranks where two of them have the same GPU: NCCL would only speak of an internal error.
    Told apart by the GPU's own number, for each rank may see its GPU as number 0."""
    gpus = gather(world, str(gpu.uuid))
    for rank, uuid in enumerate(gpus):
        first = gpus.index(uuid)
        if first < rank:
            raise found_by_all(
                world,
                f"processes: ranks {first} and {rank} have the same GPU ({gpu.name}): start one process "
                f"a GPU ({len(set(gpus))} here, not {world.size}), or CUDA_VISIBLE_DEVICES= to train on the "
                "CPU",
            )


def group_along(world: World, *axes: str, ends: bool = False, backend: str | None = None) -> Any:
    """The process group of the ranks that differ from this one in the coordinates of `axes` alone; of them,
    with `ends`, those at an end of the pipeline: None for a rank between. All ranks ask for the same groups,
    in the same order."""
    own = None
    for ranks in ranks_along(world.size, world.degrees, *axes):
        members = [rank for rank in ranks if not ends or mesh(rank, world.size, world.degrees).at_an_end]
        group = distributed.new_group(members, backend=backend)
        if world.rank in members:
            own = group
    return own


def disconnect() -> None:
    """Leave the group. Without it gloo's threads can outlive the interpreter's end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def device_of(world: World) -> torch.device:
    """The device of this rank: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device("cpu")
