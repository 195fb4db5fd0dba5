"""Connecting the ranks: torch.distributed with a time-out that everything obeys.

torch's time-out argument reaches the default group only, and DeepSpeed makes groups of its own with torch's
30 minutes; so the default of all later groups is set first.
"""

import datetime
import os
import socket
from typing import Any

import torch
from torch import distributed
from torch.distributed import distributed_c10d

from data.errors import BadInput, PassingTrouble
from launcher.distributed.collectives import found_by_all, gather
from launcher.distributed.meeting import meet, wait_in_store
from launcher.distributed.mesh import mesh, ranks_along
from launcher.distributed.waiting import address
from launcher.distributed.world import World


def connect(world: World, timeout: float = 600.0) -> None:
    """Join the other ranks; `timeout` in seconds bounds every collective, and `world.patience` the wait for
    the ranks here. PassingTrouble where some do not come, on those that did."""
    span = datetime.timedelta(seconds=timeout)
    distributed_c10d.default_pg_timeout = span
    device = device_of(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _require_interface()
    try:
        distributed.init_process_group(
            backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            rank=world.rank,
            world_size=world.size,
            timeout=span,
            store=_store(world, span),
        )
    except RuntimeError as error:  # torch's DistError among them
        said = " ".join(str(error).split())[:200]
        raise PassingTrouble(
            f"rank {world.rank} of {world.size} on {socket.gethostname()}: the ranks have met "
            f"({world.rendezvous}), but cannot open connections to each other: {said}; of several networks "
            "GLOO_SOCKET_IFNAME names the one to use"
        ) from None
    if device.type == "cuda":
        refuse_shared(world, torch.cuda.get_device_properties(device))


def _store(world: World, span: datetime.timedelta) -> distributed.Store:
    """torch's store of addresses, once all ranks are there."""
    kind, _, place = world.rendezvous.partition("://")
    if not kind:
        return distributed.HashStore()
    if kind == "file":
        store: distributed.Store = distributed.FileStore(place, world.size)
        wait_in_store(world, store)
        return store
    host, port = address(world)
    if kind == "agent":
        store = distributed.TCPStore(host, port, world.size, timeout=span)
        wait_in_store(world, store)
        return store
    listener = meet(world)
    if listener is None:
        return distributed.TCPStore(host, port, timeout=span)
    # Rank 0 is its own client, by an address that needs no name service.
    return distributed.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        timeout=span,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _require_interface() -> None:
    """BadInput for an interface that this machine has not: gloo speaks of an address that it cannot find."""
    name, known = os.environ.get("GLOO_SOCKET_IFNAME"), [name for _, name in socket.if_nameindex()]
    if name and not any(part.strip() in known for part in name.split(",")):
        raise BadInput(
            f"GLOO_SOCKET_IFNAME={name}: {socket.gethostname()} has no such network interface; it has "
            f"{', '.join(known)}"
        )


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
