"""The mixture of objectives: what a config says of it, and `make_examples`, which makes a block's segments by
it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.example import Objective, TokenizerView
from objectives.example_builder import ExampleBuilder
from objectives.noise import LONGEST
from objectives.nsp import Nsp
from objectives.registry import NAMES, OBJECTIVES, objective_class, objective_id
from objectives.schedule import Schedule
from objectives.segments import Segment, Segments, SourceSpan, Texts
from objectives.settings import describe_settings, parse_settings

__all__ = [
    "SHORTEST",
    "Entry",
    "Mixture",
    "Schedule",
    "Segment",
    "Segments",
    "SourceSpan",
    "Texts",
    "make_examples",
]

SHORTEST = 8
"""The least T: below it not every objective has room for a token and its marks."""


@dataclass(frozen=True)
class Entry:
    """An objective in the mixture: how much of the text it gets, and how much its loss counts."""

    objective: Objective
    weight: Schedule
    coefficient: float = 1.0


@dataclass(frozen=True)
class Mixture:
    """Entries in the order of the registry, so that the order of a config's lines changes nothing."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError(f"no objective given; known: {', '.join(NAMES)}")
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
        """float32 [objectives], by registry id: the loss coefficients, 0 where absent. The masked targets of
        nsp are reported as mlm; without an mlm of its own in the mixture they take nsp's coefficient."""
        coefficients = np.zeros(len(OBJECTIVES), dtype=np.float32)
        for entry in self.entries:
            coefficients[entry.objective.id] = entry.coefficient
        own = {entry.objective.id for entry in self.entries}
        for entry in self.entries:
            if isinstance(entry.objective, Nsp) and entry.objective.mlm.id not in own:
                coefficients[entry.objective.mlm.id] = entry.coefficient
        return coefficients

    def planned(self, row: int) -> np.ndarray:
        """float64 [objectives], by registry id: the loss weight to expect for a source token at a global row
        (share × density); what nsp masks counts as mlm."""
        planned = np.zeros(len(OBJECTIVES), dtype=np.float64)
        for entry, share in zip(self.entries, self.weights(row)):
            planned[entry.objective.id] += share * entry.objective.density
            if isinstance(entry.objective, Nsp):
                planned[entry.objective.mlm.id] += share * entry.objective.mlm.density
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


def make_examples(
    texts: Texts,
    rests: np.ndarray,
    mixture: Mixture,
    row: int,
    length: int,
    tokenizer: TokenizerView,
    key: int,
    document_keys: np.ndarray | Sequence[int],
) -> Segments:
    """All segments of a block, a pure function of its arguments.

    rests: int64 [n, 3] (document, start, stop), what is left of the documents to use; row: the global row
    whose weights hold; length: T; key: of this build of the block; document_keys: one for each document.
    Every token of every rest is in exactly one span of exactly one segment; no example is longer than T. A
    document is cut only where it is longer than its objective's fit. The draws of a segment are keyed (its
    document's key, its first token, the objective's name).
    """
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(f"length: expected {SHORTEST} to {LONGEST} positions a row, got {length}")
    objectives = [entry.objective for entry in mixture.entries]
    weights = mixture.weights(row)
    return ExampleBuilder(texts, rests, objectives, weights, length, tokenizer, key, document_keys).segments()
