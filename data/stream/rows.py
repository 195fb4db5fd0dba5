"""Rows: what the stream emits and the model eats, as seven arrays [rows, T] (docs/design/rows.md).

One container serves a step's rows, a micro-batch and the rows of an evaluation. A row's fingerprint is the
hash of its bytes, array by array: two runs whose fingerprints agree have trained on the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

DTYPES = {
    "tokens": "<i4",
    "targets": "<i4",
    "weights": "<f4",
    "start": "<i4",
    "bound": "<i4",
    "objective": "|i1",
    "corpus": "|i1",
}
"""The arrays of a row, in the order in which the fingerprint reads them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of T positions. Padding: token pad, target −1, weight 0, start = bound = i, ids −1."""

    tokens: np.ndarray
    """Input ids."""
    targets: np.ndarray
    """The id to predict at each position, −1: none."""
    weights: np.ndarray
    """Loss weights of the targets."""
    start: np.ndarray
    """The first position of each position's segment."""
    bound: np.ndarray
    """The last position that each position may attend to."""
    objective: np.ndarray
    """Registry id of the objective that made each target."""
    corpus: np.ndarray
    """Id of the corpus that each position comes from."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Positions in a row: T."""
        return self.tokens.shape[1]

    def __getitem__(self, rows: slice | np.ndarray) -> "Rows":
        return Rows(*(array[rows] for array in self.arrays().values()))

    def arrays(self) -> dict[str, np.ndarray]:
        """Name → array, in the order of DTYPES."""
        return {name: getattr(self, name) for name in DTYPES}

    def fingerprints(self) -> list[int]:
        """xxh64 of each row over its arrays, little-endian, in the order of DTYPES."""
        found = []
        for parts in zip(*self.arrays().values()):
            digest = xxhash.xxh64()
            for part in parts:
                digest.update(part)
            found.append(digest.intdigest())
        return found

    def packed(self) -> np.ndarray:
        """uint8: the bytes of all arrays, one behind the other in the order of DTYPES."""
        return np.concatenate(
            [np.ascontiguousarray(a).view(np.uint8).ravel() for a in self.arrays().values()]
        )

    @staticmethod
    def unpacked(content: np.ndarray, rows: int) -> "Rows":
        """The Rows, so many of them, of which `packed` gave these bytes."""
        sizes = [np.dtype(dtype).itemsize for dtype in DTYPES.values()]
        positions = len(content) // sum(sizes)
        parts = np.split(content, np.cumsum(sizes)[:-1] * positions)
        return Rows(*(part.view(dtype).reshape(rows, -1) for part, dtype in zip(parts, DTYPES.values())))

    def tally(self, shape: tuple[int, int], columns: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """float64 of `shape` (objectives, corpora), twice: loss weight of the targets in these columns, and
        their number."""
        targets, weights, objective, corpus = (
            array[:, columns] for array in (self.targets, self.weights, self.objective, self.corpus)
        )
        aimed = targets >= 0
        cell = objective[aimed].astype(np.int64) * shape[1] + corpus[aimed]
        cells = shape[0] * shape[1]
        weight = np.bincount(cell, weights[aimed], cells)
        number = np.bincount(cell, minlength=cells).astype(np.float64)
        return weight.reshape(shape), number.reshape(shape)

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> "Rows":
        """Rows with these values: name → [rows, T], for every name of DTYPES."""
        return Rows(**{name: np.ascontiguousarray(arrays[name], dtype) for name, dtype in DTYPES.items()})

    @staticmethod
    def blank(rows: int, length: int, pad: int) -> "Rows":
        """Rows that are padding throughout: they even out ranks and weigh nothing."""
        fill = {"tokens": pad, "targets": -1, "weights": 0, "objective": -1, "corpus": -1}
        values = {name: fill.get(name, np.arange(length)) for name in DTYPES}
        return Rows.of({name: np.broadcast_to(value, (rows, length)) for name, value in values.items()})

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """The rows of several containers of one T, in order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(*(np.concatenate(arrays) for arrays in zip(*(part.arrays().values() for part in parts))))


def step_fingerprint(fingerprints: Sequence[int]) -> str:
    """Hex xxh64 over the xxh64s of a step's rows in global order: the `fingerprint` of metrics.jsonl."""
    return xxhash.xxh64(np.asarray(fingerprints, dtype="<u8").tobytes()).hexdigest()
