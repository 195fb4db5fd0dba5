"""A stage of a pipeline: some of the model's layers on this rank, between its neighbours' layers.

    stage 0          tokens, start, bound ─▶ layers ─▶ hidden, start, bound ─▶ …
    stages between   hidden, start, bound ─▶ layers ─▶ hidden, start, bound ─▶ …
    last stage       hidden, start, bound ─▶ layers and Head ─▶ loss            targets from its own rows

All stages of a pipeline stand for one data rank, so the first and the last are given the same rows, and
targets, weights and ids never travel. Stages between are given rows of the same shape, of whatever content.
Each micro-batch comes to a stage in its turn, so a counter tells which one it is. The ranks of a sequence are
neighbours of those that have the same columns in the other stages: hidden is of these, start and bound whole.

How the micro-batches are interleaved is DeepSpeed's affair (deepspeed/pipeline.py) and stands behind
StagePasses: another schedule would be another `train`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.stream.rows import Rows
from launcher.distributed.mesh import Mesh
from launcher.engine.dropout import reseeding
from launcher.engine.forward import added_up, to_device
from launcher.engine.interface import Evaluation
from launcher.engine.parallel.sequence import SequenceColumns
from model.transformer import Transformer


class Stage(nn.Module):
    """What DeepSpeed runs on this rank: one micro-batch after the other through its layers."""

    def __init__(
        self, model: Transformer, mesh: Mesh, columns: SequenceColumns, device: torch.device, seed: int
    ) -> None:
        """model: the part of it that this stage has. columns: of its rows. seed: of dropout."""
        super().__init__()
        self.model, self.columns = model, columns
        self._mesh, self._device, self._seed = mesh, device, seed
        self.begin([], np.zeros(0), step=0)

    def begin(
        self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int, accuracy: bool = False
    ) -> None:
        """What comes next: these micro-batches, in order. accuracy: without gradients, count the right."""
        self._rows, self._scale, self._step, self._accuracy = list(micro_batches), scale, step, accuracy
        self._number = 0
        self.found: list[tuple[Tensor, ...]] = []
        """Of each micro-batch what the Head found beside the loss; in the last stage."""

    def inputs(self) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """What DeepSpeed asks for: what enters the first stage; of the last one's rows it learns nothing."""
        for rows in self._rows:
            arrays = self._on_device(rows) if self._mesh.pipeline.is_first else {}
            yield tuple(arrays[name] for name in ("tokens", "start", "bound") if arrays), ()

    def forward(self, arrays: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """(tokens or hidden, start, bound) → (hidden, start, bound); in the last stage the loss, 0-dim."""
        number, rows = self._number, self._rows[self._number]
        self._number += 1
        entering, start, bound = arrays
        batch = {"start": start, "bound": bound}
        hidden = None
        if self._mesh.pipeline.is_first:
            batch["tokens"] = entering
        else:
            hidden = entering
        reseed = None
        if self.training:
            rank = self._mesh.data.rank
            reseed = reseeding(self.model.config, self._seed, self._device, self._step, number, rank)
        hidden = self.model.hidden(batch, hidden, reseed, self.columns)
        if not self._mesh.pipeline.is_last:
            return hidden, start, bound
        loss, *found = self.model.head(hidden, self._on_device(rows), self._accuracy)
        self.found.append(tuple(found))
        return loss

    def _on_device(self, rows: Rows) -> dict[str, Tensor]:
        return to_device(rows, self._scale, self._device, self.columns)


class StagePasses:
    """Passes of a stage. All ranks of all pipelines call it together."""

    def __init__(self, deepspeed: Any, stage: Stage, mesh: Mesh, shape: tuple[int, int]) -> None:
        self._deepspeed, self._stage, self._mesh, self.shape = deepspeed, stage, mesh, shape
        self._travelling: tuple[int, int] | None = None

    def train(self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int) -> np.ndarray:
        """1F1B over the micro-batches, whose number may differ from step to step."""
        engine, ranks = self._deepspeed, self._mesh.replicas.size
        batches = self._level(micro_batches)
        self._stage.begin(batches, scale * ranks, step)
        engine.micro_batches = len(batches)
        engine.train_batch(self._stage.inputs())
        engine.timers("train_batch").reset()  # it keeps each step's time for ever
        sums = np.zeros(self.shape)
        for (found,) in self._stage.found:
            sums += found.detach().cpu().numpy()
        return sums / ranks

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """Forward alone; pipelines may bring unequal numbers, and one without rows runs a blank one."""
        columns = self._stage.columns
        batches = self._level(micro_batches or [Rows.blank(1, 8 * columns.axis.size, 0)])
        self._stage.begin(batches, np.ones(self.shape), step=0, accuracy=True)
        self._deepspeed.eval_batch(
            self._stage.inputs(),
            compute_loss=False,
            reduce_output=None,
            bcast_loss=False,
            num_micro_batches=len(batches),
        )
        return added_up(batches, self._stage.found, self.shape, columns)

    def _level(self, micro_batches: Sequence[Rows]) -> list[Rows]:
        """All of one height, by blank rows: what travels between stages has one shape in a pass. DeepSpeed is
        told where that is another than before."""
        height, length = max(map(len, micro_batches)), micro_batches[0].length
        if self._travelling != (height, length):
            self._travelling = height, length
            self._deepspeed.reset_activation_shape()
        return [
            rows if len(rows) == height else Rows.join([rows, Rows.blank(height - len(rows), length, 0)])
            for rows in micro_batches
        ]
