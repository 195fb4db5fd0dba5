"""Probes: one position of one row whose loss is looked at, under three choices of the tokens round it.

    row        . . . [ a a a a a ] [ b b b b b b ] pad
    position                            ^             a target of b, the only one that is kept
    it sees                          - - -            start … bound, and whatever these see in their turn
    as_is      the row's own tokens
    outside    every token that it must not see is another one: the loss is to stay, bit for bit
    inside     every token that it may see is another one: the loss is to move, or the probe is blind

Positions are taken from the first step of the user's own stream, next to the borders of segments.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from data.stream.rows import DTYPES, Rows

KINDS = ("as_is", "outside", "inside")
MOST = 8

Probes = dict[str, Rows]
"""Kind → a row for each probe."""


def chosen(rows: Rows, vocabulary: int, most: int = MOST) -> tuple[Probes, list[dict[str, Any]]]:
    """Probes of a step's rows, objectives in turn, and what each is: objective, row, position, what it sees.
    None where no position has anything that it must not see."""
    random = np.random.default_rng(1)
    places = sorted(_places(rows), key=lambda place: place["rank"])[:most]
    probes: dict[str, list[Rows]] = {kind: [] for kind in KINDS}
    for place in places:
        row, position = place["row"], place["position"]
        alone = {name: array[row : row + 1].copy() for name, array in rows.arrays().items()}
        others = np.arange(rows.length) != position
        alone["targets"][0, others], alone["weights"][0, others] = -1, 0.0
        seen = np.zeros(rows.length, bool)
        seen[place["first"] : place["last"] + 1] = True
        probes["as_is"].append(Rows.of(alone))
        for kind, changed in (("outside", ~seen), ("inside", seen)):
            tokens = alone["tokens"].copy()
            shift = random.integers(1, vocabulary, changed.sum())
            tokens[0, changed] = (tokens[0, changed] + shift) % vocabulary
            probes[kind].append(Rows.of(alone | {"tokens": tokens}))
    told = [{key: value for key, value in place.items() if key != "rank"} for place in places]
    return {kind: Rows.join(found) for kind, found in probes.items() if found}, told


def _places(rows: Rows) -> list[dict[str, Any]]:
    """Of each row and objective the first, a middle and the last target that must not see something; rank:
    rows of several segments first, and objectives in turn."""
    found = []
    taken: dict[int, int] = {}
    for row in range(len(rows)):
        real = rows.corpus[row] >= 0
        segments = len(np.unique(rows.start[row][real]))
        aimed = np.flatnonzero(rows.targets[row] >= 0)
        for objective in np.unique(rows.objective[row][aimed]).tolist():
            own = aimed[rows.objective[row][aimed] == objective]
            for position in dict.fromkeys([own[0].item(), own[-1].item(), own[len(own) // 2].item()]):
                first, last = _sees(rows, row, position)
                if first == 0 and last == rows.length - 1:
                    continue
                turn = taken[objective] = taken.get(objective, -1) + 1
                place = {"objective": objective, "row": row, "position": position}
                found.append(place | {"first": first, "last": last, "rank": (segments < 2, turn, row)})
    return found


def _sees(rows: Rows, row: int, position: int) -> tuple[int, int]:
    """The first and the last position whose token may tell in this one's loss: through the layers it sees
    what those that it sees have seen."""
    start, bound = rows.start[row], rows.bound[row]
    first, last = int(start[position]), int(bound[position])
    while True:
        wider = int(start[first : last + 1].min()), int(bound[first : last + 1].max())
        if wider == (first, last):
            return first, last
        first, last = wider


def write_rows_file(path: Path, groups: dict[str, Rows]) -> None:
    """Keep Rows by name for the ranks."""
    arrays = {
        f"{name}.{key}": np.ascontiguousarray(array)
        for name, rows in groups.items()
        for key, array in rows.arrays().items()
    }
    save_file(arrays, path)


def read_rows_file(path: Path) -> dict[str, Rows]:
    """What write_rows_file kept."""
    arrays = load_file(path)
    names = dict.fromkeys(key.rpartition(".")[0] for key in arrays)
    return {name: Rows.of({key: arrays[f"{name}.{key}"] for key in DTYPES}) for name in names}


def evaluated(loss: Callable[[Rows], float], probes: Probes) -> dict[str, list[float]]:
    """Kind → the loss of each probe; 'again': of the first kind, a second time."""

    def each(rows: Rows) -> list[float]:
        return [loss(rows[number : number + 1]) for number in range(len(rows))]

    found = {kind: each(rows) for kind, rows in probes.items()}
    return found | {"again": each(probes["as_is"])}
