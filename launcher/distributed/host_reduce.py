"""Sums of small vectors over ranks, on the host and in the background.

Numbers about the run (weights of a batch, stop flags, losses) are summed in a gloo group of their own: they
are small, must not wait behind gradients, and must not need a GPU.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from launcher.distributed.world import World


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
        self._group: Any = distributed.new_group(backend="gloo") if world.size > 1 else None

    def start(self, vector: np.ndarray, *, largest: bool = False) -> Pending:
        """Begin to reduce a copy of `vector` by sum, or by maximum where `largest`."""
        tensor = torch.from_numpy(np.array(vector, dtype=np.float64))
        if self._group is None:
            return Pending(tensor, None)
        kind = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        return Pending(tensor, distributed.all_reduce(tensor, op=kind, group=self._group, async_op=True))
