"""The mixture of objectives: which they are, with what share of the text and what part in the loss.

A config's section `objectives` is parsed here, once; from then on it travels as a Mixture, through the plan
to the example builder (objectives/example_builder.py) and the loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from objectives.objective import Objective
from objectives.registry import NAMES, OBJECTIVES, objective_class, objective_id
from objectives.schedule import Schedule
from objectives.settings import describe_settings, parse_settings


@dataclass(frozen=True)
class Entry:
    """An objective in the mixture: how much of the text it gets, and how much its loss counts."""

    objective: Objective
    weight: Schedule
    coefficient: float = 1.0

    def alone(self) -> "Mixture":
        """The mixture of this objective and no other, whatever its weight was."""
        return Mixture((replace(self, weight=Schedule.parse(1)),))


@dataclass(frozen=True)
class Mixture:
    """Entries in the order of the registry, so that the order of a config's lines changes nothing."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError(f"no objective given; known: {', '.join(NAMES)}")
        if any(entry.weight.in_tokens for entry in self.entries):
            return  # judged once it is in rows
        for row in {row for entry in self.entries for row, _ in entry.weight.points}:
            if not sum(entry.weight.at(row) for entry in self.entries) > 0:
                raise ValueError(f"all weights are 0 at row {row}; one must be above 0")

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Mixture":
        """From {name: {weight: 1, coefficient: 1, and the objective's settings}}; None stands for {}.
        ValueError in one line that begins with the key."""
        if not isinstance(config, Mapping):
            raise ValueError(f"expected objectives (name: settings), got {config!r}")
        entries = [_parse_entry(str(name), settings) for name, settings in config.items()]
        return cls(tuple(sorted(entries, key=lambda entry: entry.objective.id)))

    def in_rows(self, row_for: Callable[[int], int]) -> "Mixture":
        """The same with all weights in rows. row_for: as Schedule.in_rows has it. ValueError where all are 0
        at some row."""
        return Mixture(tuple(replace(entry, weight=entry.weight.in_rows(row_for)) for entry in self.entries))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Plain values, complete with defaults: parse gives an equal mixture."""
        return {
            entry.objective.name: {
                "weight": entry.weight.describe(),
                "coefficient": entry.coefficient,
                **describe_settings(entry.objective),
            }
            for entry in self.entries
        }

    def weights(self, row: int) -> np.ndarray:
        """float64 [entries]: shares of source tokens at a global row; their sum is 1."""
        weights = np.array([entry.weight.at(row) for entry in self.entries], dtype=np.float64)
        return weights / weights.sum()

    def coefficients(self) -> np.ndarray:
        """float32 [objectives], by registry id: the loss coefficients, 0 where absent. Targets that an
        objective reports under the id of one that is not in the mixture take the coefficient of whoever
        reports them, of several the first."""
        coefficients = np.zeros(len(OBJECTIVES), dtype=np.float32)
        for entry in reversed(self.entries):
            coefficients[list(entry.objective.reports)] = entry.coefficient
        for entry in self.entries:
            coefficients[entry.objective.id] = entry.coefficient
        return coefficients

    def planned(self, row: int) -> np.ndarray:
        """float64 [objectives], by registry id: the loss weight to expect for a source token at a global row
        (share × density), under the ids under which the objectives report it."""
        planned = np.zeros(len(OBJECTIVES), dtype=np.float64)
        for entry, share in zip(self.entries, self.weights(row)):
            for reported, density in entry.objective.reports.items():
                planned[reported] += share * density
        return planned


def _parse_entry(name: str, settings: Any) -> Entry:
    objective_id(name)
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"{name}: expected settings (key: value), got {settings!r}")
    own = dict(settings or {})
    numbers = {}
    for key in ("weight", "coefficient"):
        try:
            numbers[key] = Schedule.parse(own.pop(key, 1.0))
        except ValueError as error:
            raise ValueError(f"{name}.{key}: {error}") from None
    if len(numbers["coefficient"].points) > 1:
        raise ValueError(f"{name}.coefficient: expected a number, got {(settings or {})['coefficient']!r}")
    objective = parse_settings(objective_class(name), own, name, extra=("weight", "coefficient"))
    return Entry(objective, numbers["weight"], numbers["coefficient"].at(0))
