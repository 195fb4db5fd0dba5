"""The table of layouts as tests and pages have it: supported cells, a cover of a large matrix, Markdown.

python -m tests.support.layouts        prints the README's table
"""

from collections.abc import Sequence
from itertools import combinations, product
from textwrap import fill
from typing import Any, NamedTuple, TypeVar, get_args

import pytest

from launcher.engine.layout import SUPPORT, LayoutCell, Stage

AXES = LayoutCell._fields[3:]
"""Of a cell: ways to spread a run beside ZeRO, each used or not."""
CELLS = [cell for cell, reason in SUPPORT.items() if reason is None]
WHOLE = [cell for cell in CELLS if not any(cell[3:])]
"""Those in which one process is enough."""
REFUSED = [cell for cell, reason in SUPPORT.items() if reason is not None]

Row = TypeVar("Row", bound=tuple)


def keys(cell: LayoutCell) -> dict[str, Any]:
    """A cell as keys of `layout:`, with two ranks along each axis that it has."""
    return cell._asdict() | {axis: 1 + getattr(cell, axis) for axis in AXES}


def ranks_of(cell: LayoutCell, least: int = 1) -> int:
    """The fewest ranks, at least so many, that `keys` of a cell can be spread over."""
    return max(least, 2 ** sum(cell[3:]))


class Placed(NamedTuple):
    """A layout on a number of ranks."""

    ranks: int
    layout: dict[str, Any]

    def __str__(self) -> str:
        words = [f"{key} {value}" for key, value in self.layout.items()]
        return f"{self.ranks} ranks, {', '.join(words)}"


FP32 = [
    *(Placed(n, {"zero": zero}) for zero in range(4) for n in (1, 2, 4)),
    *(Placed(n, {"zero": zero, "offload": "optimizer"}) for zero in (1, 2, 3) for n in (1, 2, 4)),
    *(Placed(n, {"pipeline": p, "zero": zero}) for n, p in ((2, 2), (4, 4), (4, 2)) for zero in (0, 1)),
    *(Placed(n, {"sequence": 2, "zero": zero}) for n in (2, 4) for zero in range(4)),
    *(Placed(4, {"pipeline": 2, "sequence": 2, "zero": zero}) for zero in (0, 1)),
    *(Placed(n, {"tensor": 2, "zero": zero}) for n in (2, 4) for zero in range(4)),
    *(Placed(4, {"tensor": 2, "sequence": 2, "zero": zero}) for zero in range(4)),
    *(Placed(n, {"pipeline": 2, "tensor": 2, "zero": zero}) for n in (4, 8) for zero in (0, 1)),
]
"""Every layout in which parity is shown in fp32, on so many ranks: each in all its recipes (RECIPES)."""
BF16 = [
    *(Placed(n, {"zero": zero}) for zero in (1, 2, 3) for n in (1, 2)),
    *(Placed(2, {"zero": zero, "offload": "optimizer"}) for zero in (1, 2, 3)),
    *(Placed(n, {"pipeline": 2, "zero": 1}) for n in (2, 4)),
    *(Placed(2, {"sequence": 2, "zero": zero}) for zero in (1, 2, 3)),
    Placed(4, {"pipeline": 2, "sequence": 2, "zero": 1}),
    *(Placed(2, {"tensor": 2, "zero": zero}) for zero in (1, 2, 3)),
    Placed(4, {"tensor": 2, "sequence": 2, "zero": 1}),
    Placed(4, {"pipeline": 2, "tensor": 2, "zero": 1}),
]
"""And in bf16, in one recipe each."""
RECIPES = list(product((False, True), (True, False), ("global", "objective")))
"""(activation checkpointing, tied, normalisation)."""


def cover(matrix: Sequence[Row], together: int = 2) -> list[Row]:
    """A few rows of a matrix in which every two values that meet in any of its rows meet; with `together` 1
    every value stands. Greedy: each time the row that has the most pairs that are still missing, of equals
    the first."""

    def pairs(row: Row) -> set[tuple]:
        return set(combinations(enumerate(map(str, row)), together))

    missing = {pair for row in matrix for pair in pairs(row)}
    chosen = []
    while missing:
        best = max(matrix, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def usual_first() -> list[Any]:
    """CELLS as parameters of a test; of those with sequence or tensor ranks a few, the others with `full`."""
    rare = [cell for cell in CELLS if cell.sequence or cell.tensor]
    usual = cover(rare, together=1)
    return [
        pytest.param(cell, marks=pytest.mark.full) if cell in rare and cell not in usual else cell
        for cell in CELLS
    ]


def markdown() -> str:
    """A line a way to spread a run, a column a ZeRO stage: the precisions, `all` where each is supported with
    an offloaded optimizer too. Why something is refused stands below."""
    reasons: list[str] = []

    def numbered(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        return f"({reasons.index(reason) + 1})"

    def words(group: list[LayoutCell]) -> str:
        """Of the cells of one line and column: what is supported of them, and why the rest is not."""
        refused = {numbered(reason): None for cell in group if (reason := SUPPORT[cell])}
        if not refused:
            return "all"
        plain = [cell.precision for cell in group if SUPPORT[cell] is None and cell.offload == "none"]
        offloaded = [cell.precision for cell in group if SUPPORT[cell] is None and cell.offload != "none"]
        told = [", ".join(plain) or "no", f"offload {', '.join(offloaded)}" if offloaded else ""]
        return " ".join([*filter(None, told), *refused])

    lines = [
        f"| | {' | '.join(f'`zero: {zero}`' for zero in get_args(Stage))} |",
        f"|---|{'---|' * len(get_args(Stage))}",
    ]
    for used in product((False, True), repeat=len(AXES)):
        name = " × ".join(axis for axis, is_used in zip(AXES, used) if is_used) or "data ranks alone"
        columns = [
            [cell for cell in SUPPORT if cell.zero == zero and cell[3:] == used] for zero in get_args(Stage)
        ]
        lines.append(f"| {name} | {' | '.join(map(words, columns))} |")
    below = [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *(fill(line, 118, subsequent_indent="   ") for line in below)])


if __name__ == "__main__":
    print(markdown())
