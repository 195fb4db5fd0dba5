"""Connecting the ranks: torch.distributed with a time-out that everything obeys, and small sums over ranks.

torch's time-out argument reaches the default group only, and DeepSpeed makes groups of its own with torch's
30 minutes; so the default of all later groups is set first. Numbers about the run (weights of a batch, stop
flags, losses) are summed in a separate gloo group on the host: they are small, must not wait behind
gradients, and must not need a GPU.
"""

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed import distributed_c10d

from data.errors import BadInput
from launcher.agreement import Told, gather
from launcher.world import World


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
            line = (
                f"processes: ranks {first} and {rank} have the same GPU ({gpu.name}): start one process a "
                f"GPU ({len(set(gpus))} here, not {world.size}), or CUDA_VISIBLE_DEVICES= to train on the CPU"
            )
            raise BadInput(line) if world.rank == 0 else Told(line)


def disconnect() -> None:
    """Leave the group. Without it gloo's threads can outlive the interpreter's end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def device_of(world: World) -> torch.device:
    """The device of this rank: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device("cpu")


@dataclass(frozen=True)
class Pending:
    """A sum under way. Every rank starts its sums in the same order; `wait` may come at any time after."""

    vector: torch.Tensor
    work: distributed.Work | None

    def wait(self) -> np.ndarray:
        """float64: the reduced vector."""
        if self.work is not None:
            self.work.wait()
        return self.vector.numpy()


class HostSums:
    """All-reduces of small float64 vectors over all ranks, on the host. Making one is a collective."""

    def __init__(self, world: World) -> None:
        self._group = distributed.new_group(backend="gloo") if world.size > 1 else None

    def start(self, vector: np.ndarray, *, largest: bool = False) -> Pending:
        """Begin to reduce a copy of `vector` by sum, or by maximum where `largest`."""
        tensor = torch.from_numpy(np.array(vector, dtype=np.float64))
        if self._group is None:
            return Pending(tensor, None)
        kind = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        return Pending(tensor, distributed.all_reduce(tensor, op=kind, group=self._group, async_op=True))
