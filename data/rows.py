"""Rows: what the stream emits and the model eats, as seven arrays of shape [rows, T] (DESIGN §3).

A row is one run of bytes, its seven arrays one behind the other; the arrays of many rows are views across
these runs. So a row moves from the block in which it was packed into a batch by one copy, and its
fingerprint is the hash of its bytes as they lie: two runs whose fingerprints agree have trained on the same
bytes. One container serves a block's rows, a step's rows and a micro-batch.
"""

from collections.abc import Sequence
from itertools import accumulate

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
"""The arrays of a row, in the order in which they lie and the fingerprint reads them."""

_ITEMSIZES = [np.dtype(dtype).itemsize for dtype in DTYPES.values()]
_BYTES = sum(_ITEMSIZES)
"""A position's."""
_BEFORE = dict(zip(DTYPES, accumulate(_ITEMSIZES, initial=0)))
_ALIGNMENT = 64
"""Rows begin on a line of the cache; their arrays, on a whole number of their values."""


class Rows:
    """Rows of T positions. Padding: token pad, target −1, weight 0, start = bound = i, ids −1."""

    __slots__ = ("_records", "length")

    def __init__(self, records: np.ndarray, length: int) -> None:
        """records: uint8 [rows, at least 22 · T], what `Rows.empty` made or rows of it; length: T."""
        self._records, self.length = records, length

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, rows: slice | np.ndarray) -> "Rows":
        return Rows(self._records[rows], self.length)

    def _array(self, name: str) -> np.ndarray:
        """A view, [rows, T]."""
        dtype = np.dtype(DTYPES[name])
        first = _BEFORE[name] * self.length
        return self._records[:, first : first + dtype.itemsize * self.length].view(dtype)

    @property
    def tokens(self) -> np.ndarray:
        """Input ids."""
        return self._array("tokens")

    @property
    def targets(self) -> np.ndarray:
        """The id to predict at each position, −1: none."""
        return self._array("targets")

    @property
    def weights(self) -> np.ndarray:
        """Loss weights of the targets."""
        return self._array("weights")

    @property
    def start(self) -> np.ndarray:
        """The first position of each position's piece."""
        return self._array("start")

    @property
    def bound(self) -> np.ndarray:
        """The last position that each position may attend to."""
        return self._array("bound")

    @property
    def objective(self) -> np.ndarray:
        """Registry id of the objective that made each target."""
        return self._array("objective")

    @property
    def corpus(self) -> np.ndarray:
        """Id of the corpus that each position comes from."""
        return self._array("corpus")

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._records.nbytes

    def arrays(self) -> dict[str, np.ndarray]:
        """Name → array, in the order of DTYPES, as views."""
        return {name: self._array(name) for name in DTYPES}

    def copy_row(self, row: int, source: "Rows", number: int) -> None:
        """Row `row` becomes row `number` of `source`, rows of the same T."""
        self._records[row] = source._records[number]

    def clear(self, pad: int) -> None:
        """Makes all rows padding throughout."""
        fill = {"tokens": pad, "targets": -1, "weights": 0, "objective": -1, "corpus": -1}
        for name, array in self.arrays().items():
            array[:] = fill.get(name, np.arange(self.length))

    def fingerprints(self) -> list[int]:
        """xxh64 of each row over its arrays, little-endian, in the order of DTYPES."""
        used = self._records[:, : _BYTES * self.length]
        return [xxhash.xxh64_intdigest(record.data) for record in used]

    def tally(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """float64 of `shape` (objectives, corpora), twice: loss weight of the targets, and their number."""
        aimed = self.targets >= 0
        cell = self.objective[aimed].astype(np.int64) * shape[1] + self.corpus[aimed]
        cells = shape[0] * shape[1]
        weight = np.bincount(cell, self.weights[aimed], cells)
        targets = np.bincount(cell, minlength=cells).astype(np.float64)
        return weight.reshape(shape), targets.reshape(shape)

    @staticmethod
    def empty(rows: int, length: int) -> "Rows":
        """Rows whose values are yet to be written."""
        size = -(-_BYTES * length // _ALIGNMENT) * _ALIGNMENT
        return Rows(np.empty((rows, size), np.uint8), length)

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> "Rows":
        """Rows with these values: name → [rows, T], for every name of DTYPES."""
        rows = Rows.empty(*arrays["tokens"].shape)
        for name, array in rows.arrays().items():
            array[:] = arrays[name]
        return rows

    @staticmethod
    def blank(rows: int, length: int, pad: int) -> "Rows":
        """Rows that are padding throughout: they even out ranks and weigh nothing."""
        blank = Rows.empty(rows, length)
        blank.clear(pad)
        return blank

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """The rows of several containers of one T, in order."""
        return Rows(np.concatenate([part._records for part in parts]), parts[0].length)


def step_fingerprint(fingerprints: Sequence[int]) -> str:
    """Hex xxh64 over the xxh64s of a step's rows in global order: the `fingerprint` of metrics.jsonl."""
    return xxhash.xxh64(np.asarray(fingerprints, dtype="<u8").tobytes()).hexdigest()
