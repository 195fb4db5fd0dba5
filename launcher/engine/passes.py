"""Forward and backward passes of a rank over its micro-batches: what differs from layout to layout in a step.

    train      for each micro-batch: forward, backward; after the last one the gradients are reduced
    evaluate   forward alone

The engine asks for them and does everything else alike for all layouts (engine.py). Here are those of a
rank that holds the whole model, as one process or under ZeRO; parallel/pipeline.py has those of a stage. Both
may have whole rows, or some columns of them (parallel/sequence.py).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from data.stream.rows import Rows
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.mesh import Mesh
from launcher.engine.dropout import reseeding
from launcher.engine.forward import evaluate, to_device
from launcher.engine.interface import Evaluation
from launcher.engine.layout import LayoutConfig
from launcher.engine.parallel.sequence import SequenceColumns
from model.transformer import Transformer


class Passes(Protocol):
    """What a rank does with its micro-batches. All ranks call it together."""

    shape: tuple[int, int]
    """(objectives, corpora) of the sums."""

    def train(self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int) -> np.ndarray:
        """Gradients of the micro-batches, reduced over the ranks. scale: float64 [objectives, corpora], of
        the loss weights. The terms of the loss, float64 [objectives, corpora]; over all ranks each once."""

    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """The sums over rows, weights as in the rows; over all ranks each row once. Ranks may bring unequal
        numbers."""


class WholePasses:
    """Of a rank that holds the whole model, or under ZeRO its parts of it."""

    def __init__(
        self,
        deepspeed: Any,
        model: Transformer,
        layout: LayoutConfig,
        mesh: Mesh,
        columns: SequenceColumns,
        device: torch.device,
        reducer: HostSums,
        seed: int,
        shape: tuple[int, int],
    ) -> None:
        """seed: of dropout."""
        self.shape = shape
        self._deepspeed, self._model, self._layout = deepspeed, model, layout
        self._mesh, self._columns, self._device = mesh, columns, device
        self._reducer, self._seed = reducer, seed

    def train(self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int) -> np.ndarray:
        """DeepSpeed is told which micro-batch is the last and never divides by their number, so that may
        differ from step to step."""
        engine, ranks = self._deepspeed, self._mesh.replicas.size
        engine.train()
        total = torch.zeros(self.shape, device=self._device)
        last = len(micro_batches) - 1
        for number, rows in enumerate(micro_batches):
            engine.set_gradient_accumulation_boundary(number == last)
            reseed = reseeding(
                self._model.config, self._seed, self._device, step, number, self._mesh.data.rank
            )
            # DeepSpeed's mean over its ranks then gives the sum.
            batch = to_device(rows, scale * ranks, self._device, self._columns)
            loss, sums = engine(batch, reseed=reseed, columns=self._columns)
            engine.backward(loss, scale_wrt_gas=False)
            total += sums
            if number < last:
                engine.step()  # counts the micro-batch and changes nothing
        return total.cpu().numpy().astype(np.float64) / ranks

    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """In ZeRO 3 every forward pass gathers weights, so ranks must make the same number of them."""
        self._deepspeed.eval()
        batches = list(micro_batches)
        if self._layout.zero == 3:
            most = self._reducer.start(np.array([len(batches)]), largest=True).wait()
            length = batches[0].length if batches else 8 * self._columns.axis.size
            batches += [Rows.blank(1, length, 0)] * (int(most[0]) - len(batches))
        return evaluate(self._deepspeed, batches, self._device, self.shape, self._columns)
