"""Where a rank stands among the ranks of a run: four coordinates, from its number and three degrees.

    rank = ((pipeline · data ranks + data) · S + sequence) · T + tensor

        pipeline 0                 pipeline 1              degrees (2, 2, 1) on 8 ranks
        data 0      data 1         data 0      data 1
        s0   s1     s0   s1        s0   s1     s0   s1
        0    1      2    3         4    5      6    7

The tensor ranks of a row, which speak after each matrix, are neighbours and so on one node; then those of a
sequence, which speak in each layer; the stages of a pipeline, which send a micro-batch's activations, may lie
on different nodes. Rows belong to data ranks: all ranks that share a data coordinate work on the same rows.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple


@dataclass(frozen=True)
class Degrees:
    """Ranks along each axis but data, whose degree follows."""

    pipeline: int = 1
    sequence: int = 1
    tensor: int = 1

    def __str__(self) -> str:
        degrees = {"pipeline": self.pipeline, "sequence": self.sequence, "tensor": self.tensor}
        return " × ".join(f"{axis} {size}" for axis, size in degrees.items() if size > 1)

    @property
    def ranks(self) -> int:
        """Ranks that share the rows of one data rank."""
        return self.pipeline * self.sequence * self.tensor


class Axis(NamedTuple):
    """A rank's coordinate along one axis, of so many."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Nobody stands before it."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Nobody stands behind it."""
        return self.rank == self.size - 1


@dataclass(frozen=True)
class Mesh:
    """A rank's coordinates."""

    pipeline: Axis
    data: Axis
    sequence: Axis
    tensor: Axis

    @property
    def leads(self) -> bool:
        """It is the first of the ranks that share its rows: what concerns rows is counted on this one."""
        return self.pipeline.is_first and self.sequence.is_first and self.tensor.is_first

    @property
    def replicas(self) -> Axis:
        """Its place among the ranks that have the same weights, data by data and sequence by sequence: over
        them gradients are added up, and ZeRO divides."""
        data, sequence = self.data, self.sequence
        return Axis(data.rank * sequence.size + sequence.rank, data.size * sequence.size)

    @property
    def at_an_end(self) -> bool:
        """In the first stage, which reads tokens, or the last, which reads targets: what lies between is sent
        all that it needs. A tied token table is at both ends."""
        return self.pipeline.is_first or self.pipeline.is_last


def mesh(rank: int, size: int, degrees: Degrees) -> Mesh:
    """The coordinates of `rank` of `size`. ValueError where the degrees do not divide `size`."""
    if size % degrees.ranks:
        raise ValueError(f"{size} processes are not a multiple of {degrees.ranks} ({degrees})")
    coordinates = []
    sizes = (degrees.tensor, degrees.sequence, size // degrees.ranks, degrees.pipeline)
    for along in sizes:
        rank, coordinate = divmod(rank, along)
        coordinates.append(Axis(coordinate, along))
    tensor, sequence, data, pipeline = coordinates
    return Mesh(pipeline, data, sequence, tensor)


def ranks_along(size: int, degrees: Degrees, *axes: str) -> list[list[int]]:
    """All ranks, in groups that differ in the coordinates of `axes` alone; each group in order."""
    groups: dict[tuple[Axis, ...], list[int]] = {}
    for rank in range(size):
        own = mesh(rank, size, degrees)
        fixed = tuple(getattr(own, field.name) for field in fields(own) if field.name not in axes)
        groups.setdefault(fixed, []).append(rank)
    return list(groups.values())
