"""Rows to tensors, and a pass over rows without training: the same under DeepSpeed and without it."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data.stream.rows import DTYPES, Rows
from launcher.engine.interface import Evaluation
from launcher.engine.parallel.sequence import WHOLE_ROWS, SequenceColumns
from model.transformer import Transformer


def to_device(
    rows: Rows, scale: np.ndarray, device: torch.device, columns: SequenceColumns = WHOLE_ROWS
) -> dict[str, Tensor]:
    """Rows as the model wants them, on a device, weights multiplied by scale[objective, corpus]; but for
    start and bound, which are of whole rows always, these columns of them."""
    table, own = np.pad(scale, (0, 1)), columns.of(rows.length)  # objective and corpus −1: the last entry
    arrays = {n: a if n in ("start", "bound") else a[:, own] for n, a in rows.arrays().items()}
    scales = table[arrays["objective"], arrays["corpus"]]
    arrays["weights"] = (arrays["weights"] * scales).astype(np.float32)
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
    columns: SequenceColumns = WHOLE_ROWS,
) -> Evaluation:
    """The sums that forward(batch, accuracy=True, columns=columns) makes of these columns of the rows,
    weights as they are in the rows. shape: (objectives, corpora)."""

    def found() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in micro_batches:
            batch = to_device(rows, np.ones(shape), device, columns)
            _, lost, right = forward(batch, accuracy=True, columns=columns)
            yield lost, right

    return added_up(micro_batches, found(), shape, columns)


def added_up(
    micro_batches: Iterable[Rows],
    found: Iterable[tuple[Tensor, ...]],
    shape: tuple[int, int],
    columns: SequenceColumns,
) -> Evaluation:
    """The sums over micro-batches, of each of which the Head has found (sums, correct)."""
    sums, weights, targets, correct = (np.zeros(shape) for _ in range(4))
    for rows, (lost, right) in zip(micro_batches, found):
        sums += lost.cpu().numpy()
        correct += right.cpu().numpy()
        weight, aimed = rows.tally(shape, columns.of(rows.length))
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
