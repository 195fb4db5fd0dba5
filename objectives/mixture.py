"""The mixture of objectives, and how a block's documents are shared out among them.

Documents are cut from the left. Before each cut the objective is chosen that is owed most source tokens
(objectives/shares.py). Choosing per piece and not per document is what keeps the shares exact whatever the
lengths of documents; choosing before packing is what keeps the padding small (facts/data.md, Objectives).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from objectives.draws import Draws
from objectives.example import Example, Lexicon, Objective, Source
from objectives.nsp import Nsp, exchange, half_limit, split_point
from objectives.registry import NAMES, OBJECTIVES, objective_class, objective_id
from objectives.schedule import Schedule
from objectives.settings import describe_settings, parse_settings
from objectives.shares import Shares

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


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a document: [start, stop) of `tokens`, the document's whole token array (int32, without
    begin and end). `document`: its index in `document_keys`."""

    document: int
    tokens: np.ndarray
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Span:
    """Source tokens [start, stop) of a document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A dressed piece. objective: registry id; spans: the source tokens it uses (a false next-sentence pair
    has two, of two documents)."""

    objective: int
    spans: tuple[Span, ...]
    example: Example


def dress(
    rests: Sequence[Rest],
    mixture: Mixture,
    row: int,
    length: int,
    lexicon: Lexicon,
    key: int,
    document_keys: Sequence[int],
) -> list[Piece]:
    """All pieces of a block, a pure function of its arguments.

    row: the global row whose weights hold; length: T; key: of this dressing of the block; document_keys: by
    Rest.document. Every token of every rest is in exactly one span of exactly one piece; no example is longer
    than T. A document is cut only where it is longer than its objective's fit. The draws of a piece are keyed
    (its document's key, its first token, the objective's name).
    """
    if length < SHORTEST:
        raise ValueError(f"length: expected at least {SHORTEST} positions a row, got {length}")
    dressing = _Dressing(rests, mixture, row, length, lexicon, key, document_keys)
    for rest in rests:
        dressing.cut(rest, dressing.shares.active)
    for alone in dressing.pair():
        dressing.cut(alone, dressing.unpaired)
    return dressing.pieces


class _Dressing:
    """The work on one block: who is owed what, pieces waiting for a partner, pieces done."""

    def __init__(
        self,
        rests: Sequence[Rest],
        mixture: Mixture,
        row: int,
        length: int,
        lexicon: Lexicon,
        key: int,
        document_keys: Sequence[int],
    ) -> None:
        self.objectives = [entry.objective for entry in mixture.entries]
        typical = sum(rest.stop - rest.start for rest in rests) / max(len(rests), 1)
        self.shares = Shares(mixture.weights(row).tolist(), min(length, typical), Draws(key, "shares"))
        self.unpaired = [i for i in self.shares.active if not self.objectives[i].pairs]
        self.waiting: dict[int, list[Rest]] = {}
        self.pieces: list[Piece] = []
        self.length = length
        self.lexicon = lexicon
        self.key = key
        self.document_keys = document_keys
        self.begin, self.end = lexicon.control.begin, lexicon.control.end

    def cut(self, rest: Rest, allowed: list[int]) -> None:
        """Cuts a rest into pieces of the allowed objectives. Pieces that exchange their halves wait."""
        tokens, start, stop = rest.tokens, rest.start, rest.stop
        closes = stop == len(tokens)
        while start < stop:
            # A piece of one token has no second half, so it goes to an objective that needs none.
            choice = allowed if stop - start > 1 else self.unpaired or allowed
            chosen = self.shares.most_owed(min(stop - start, self.length), choice)
            objective = self.objectives[chosen]
            n = objective.fit(tokens[start:stop], self.length, self.lexicon, start == 0, closes)
            self.shares.book(chosen, n)
            piece = Rest(rest.document, tokens, start, start + n)
            if objective.pairs:
                self.waiting.setdefault(chosen, []).append(piece)
            else:
                self._finish(chosen, piece)
            start += n

    def pair(self) -> list[Rest]:
        """Finishes the waiting pieces. Returns those whose objective has to be drawn again: they were to be
        half of a false pair and found no partner (where the mixture has no other, they become true pairs)."""
        again: list[Rest] = []
        for chosen, pieces in self.waiting.items():
            nsp = cast(Nsp, self.objectives[chosen])
            false = []
            for piece in pieces:
                luck = self._draws(piece, nsp.name, "true").number()
                if luck >= nsp.true_rate and piece.stop - piece.start > 1:
                    false.append(piece)
                else:
                    self._finish(chosen, piece, split=self._split(piece))
            ring = Draws(self.key, nsp.name, "ring")
            pairs, alone = exchange([piece.document for piece in false], ring)
            for i, j in pairs:
                self._finish(chosen, false[i], self._split(false[i]), false[j])
            for i in alone:
                if self.unpaired:
                    self.shares.book(chosen, false[i].start - false[i].stop)
                    again.append(false[i])
                else:
                    self._finish(chosen, false[i], split=self._split(false[i]))
        return again

    def _draws(self, piece: Rest, *purpose: str) -> Draws:
        return Draws(self.document_keys[piece.document], piece.start, *purpose)

    def _split(self, piece: Rest) -> int:
        draws = self._draws(piece, Nsp.name, "split")
        return split_point(
            piece.tokens[piece.start : piece.stop], self.lexicon, half_limit(self.length), draws
        )

    def _source(self, piece: Rest, split: int = 0, neighbour: Source | None = None) -> Source:
        tokens, start, stop = piece.tokens, piece.start, piece.stop
        first, last = start == 0, stop == len(tokens)
        before = self.begin if first else int(tokens[start - 1])
        after = self.end if last else int(tokens[stop])
        return Source(tokens[start:stop], before, after, first, last, self.lexicon, neighbour, split)

    def _finish(self, chosen: int, piece: Rest, split: int = 0, partner: Rest | None = None) -> None:
        """Makes the Example of a piece; with a partner, of its first half and the partner's second half."""
        objective = self.objectives[chosen]
        document, start, stop = piece.document, piece.start, piece.stop
        spans: tuple[Span, ...] = (Span(document, start, stop),)
        neighbour = None
        if partner is not None:
            other = self._split(partner)
            neighbour = self._source(partner, other)
            second = Span(partner.document, partner.start + other, partner.stop)
            spans = (Span(document, start, start + split), second)
        example = objective.make(self._source(piece, split, neighbour), self._draws(piece, objective.name))
        if len(example.tokens) > self.length:
            raise ValueError(
                f"{objective.name}: {stop - start} tokens became {len(example.tokens)} positions, more than "
                f"{self.length}: its fit or the lexicon's spread is wrong"
            )
        self.pieces.append(Piece(objective.id, spans, example))
