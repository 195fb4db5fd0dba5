"""Two processes on this machine that add up a tensor over gloo, as training processes do; for the doctor."""

import os
import sys
import time

from launcher.distributed.local_launch import launch
from launcher.distributed.respawn import command
from launcher.distributed.stop_signals import deliver

ELEMENTS = 1 << 20


def main() -> None:
    """Without arguments: start both. As a rank: rank 0 prints the MiB/s of an all-reduce."""
    if len(sys.argv) == 1:
        sys.exit(launch(2, command("launcher.doctor.network_probe", "rank")))
    deliver()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both would have the same GPU, and it is the host that is asked
    # Only the ranks need torch.
    import torch
    from torch import distributed

    from launcher.distributed.process_group import connect, disconnect
    from launcher.distributed.world import discover

    world = discover()
    connect(world, timeout=30.0)
    tensor = torch.full((ELEMENTS,), float(world.rank + 1))
    distributed.all_reduce(tensor)
    begin = time.perf_counter()
    distributed.all_reduce(tensor)
    seconds = time.perf_counter() - begin
    disconnect()
    if not bool((tensor == 6.0).all()):
        sys.exit("the sum over two processes came out wrong")
    if world.rank == 0:
        print(f"{ELEMENTS * 4 / 2**20 / seconds:.0f}")
