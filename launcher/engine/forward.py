"""Rows to tensors, and a pass over rows without training: the same under DeepSpeed and without it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from data.stream.rows import DTYPES, Rows
from launcher.engine.interface import Evaluation
from model.transformer import Transformer


def to_device(rows: Rows, scale: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """Rows as the model wants them, on a device, weights multiplied by scale[objective]."""
    table = np.append(scale, 0.0)  # objective −1, nothing predicted: the last entry
    arrays = rows.arrays() | {"weights": (rows.weights * table[rows.objective]).astype(np.float32)}
    return {
        name: torch.from_numpy(np.ascontiguousarray(arrays[name])).to(device, non_blocking=True)
        for name in DTYPES
    }


@torch.no_grad()
def evaluate(
    forward: Callable[..., tuple[Tensor, ...]],
    micro_batches: Sequence[Rows],
    device: torch.device,
    shape: tuple[int, int],
) -> Evaluation:
    """The sums that forward(batch, accuracy=True) makes of rows, weights as they are in the rows.
    shape: (objectives, corpora)."""
    sums, weights, targets, correct = (np.zeros(shape) for _ in range(4))
    for rows in micro_batches:
        _, lost, right = forward(to_device(rows, np.ones(shape[0]), device), accuracy=True)
        sums += lost.cpu().numpy()
        correct += right.cpu().numpy()
        weight, aimed = rows.tally(shape)
        weights += weight
        targets += aimed
    return Evaluation(sums, weights, targets, correct)


class PlainModel:
    """A model in this process alone, without DeepSpeed."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()

    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """The sums over rows."""
        head = self.model.head
        device = next(self.model.parameters()).device
        return evaluate(self.model, micro_batches, device, (head.objectives, head.corpora))
