"""Rows: what the stream emits and the model eats, as seven arrays of shape [rows, T] (DESIGN §3).

One container serves a block's rows, a step's rows and a micro-batch, so a row is copied once between the
block in which it was packed and the tensor that the model reads. The fingerprint of a row covers the seven
arrays and nothing else: two runs whose fingerprints agree have trained on the same bytes.
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
    """Seven arrays [rows, T]. Padding: token pad, target −1, weight 0, start = bound = i, ids −1."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    bound: np.ndarray
    objective: np.ndarray
    corpus: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """T, positions a row."""
        return self.tokens.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Name → array, in the order of DTYPES."""
        return {name: getattr(self, name) for name in DTYPES}

    def __getitem__(self, rows: slice | np.ndarray) -> "Rows":
        return Rows(*[getattr(self, name)[rows] for name in DTYPES])

    def fingerprints(self) -> list[int]:
        """xxh64 of each row over its arrays, little-endian, in the order of DTYPES."""
        hashes = []
        for row in range(len(self)):
            hash_ = xxhash.xxh64()
            for name, array in self.arrays().items():
                hash_.update(np.ascontiguousarray(array[row], dtype=DTYPES[name]).data)
            hashes.append(hash_.intdigest())
        return hashes

    @staticmethod
    def empty(rows: int, length: int) -> "Rows":
        """Rows whose values are yet to be written."""
        return Rows(**{name: np.empty((rows, length), dtype) for name, dtype in DTYPES.items()})

    def tally(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """float64 of `shape` (objectives, corpora), twice: loss weight of the targets, and their number."""
        aimed = self.targets >= 0
        cell = self.objective[aimed].astype(np.int64) * shape[1] + self.corpus[aimed]
        cells = shape[0] * shape[1]
        weight = np.bincount(cell, self.weights[aimed], cells)
        targets = np.bincount(cell, minlength=cells).astype(np.float64)
        return weight.reshape(shape), targets.reshape(shape)

    @staticmethod
    def blank(rows: int, length: int, pad: int) -> "Rows":
        """Rows that are padding throughout: they even out ranks and weigh nothing."""
        place = np.broadcast_to(np.arange(length, dtype="<i4"), (rows, length)).copy()
        fill = {"tokens": pad, "targets": -1, "weights": 0, "objective": -1, "corpus": -1}
        return Rows(
            **{
                name: place.copy()
                if name in ("start", "bound")
                else np.full((rows, length), fill[name], dtype)
                for name, dtype in DTYPES.items()
            }
        )

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """The rows of several containers of one T, in order."""
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in DTYPES))


def step_fingerprint(fingerprints: Sequence[int]) -> str:
    """Hex xxh64 over the xxh64s of a step's rows in global order: the `fingerprint` of metrics.jsonl."""
    return xxhash.xxh64(np.asarray(fingerprints, dtype="<u8").tobytes()).hexdigest()
