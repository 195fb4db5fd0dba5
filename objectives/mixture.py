"""The mixture of objectives, and how a block's documents are shared out among them.

Documents are cut from the left. Before each cut the objective is chosen that is owed most source tokens
(objectives/shares.py). Choosing per piece and not per document is what keeps the shares exact whatever the
lengths of documents; choosing before packing is what keeps the padding small (facts/data.md, Objectives).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from objectives.draws import Draws, DrawsOfMany, extend_all
from objectives.example import Example, Lexicon, Objective, Source
from objectives.noise import LONGEST
from objectives.nsp import Nsp, exchange, half_limit, split_points
from objectives.registry import NAMES, OBJECTIVES, objective_class, objective_id
from objectives.schedule import Schedule
from objectives.settings import describe_settings, parse_settings
from objectives.shares import Shares

SHORTEST = 8
"""The least T: below it not every objective has room for a token and its marks."""

BATCH = 1 << 15
"""Source tokens dressed at once."""


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
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(f"length: expected {SHORTEST} to {LONGEST} positions a row, got {length}")
    dressing = _Dressing(rests, mixture, row, length, lexicon, key, document_keys)
    for rest in rests:
        dressing.cut(rest, dressing.shares.active)
    for alone in dressing.pair():
        dressing.cut(alone, dressing.unpaired)
    return dressing.pieces()


class _Job(NamedTuple):
    """A piece to be dressed; a next-sentence piece with its split, a false one also with its partner's."""

    piece: Rest
    split: int = 0
    partner: "_Job | None" = None


class _Dressing:
    """The work on one block: who is owed what, pieces waiting for a partner, pieces to be dressed."""

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
        typical = sum(rest.stop - rest.start for rest in rests) / max(len(rests), 1)
        self.objectives = [entry.objective for entry in mixture.entries]
        self.shares = Shares(mixture.weights(row).tolist(), min(length, typical), Draws(key, "shares"))
        self.unpaired = [i for i in self.shares.active if not self.objectives[i].pairs]
        self.waiting: dict[int, list[Rest]] = {}
        self.jobs: dict[int, list[_Job]] = {i: [] for i in self.shares.active}
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
            chosen = allowed[0]
            if len(allowed) > 1:
                choice = allowed if stop - start > 1 else self.unpaired or allowed
                chosen = self.shares.most_owed(min(stop - start, self.length), choice)
            objective = self.objectives[chosen]
            n = objective.fit(tokens[start:stop], self.length, self.lexicon, start == 0, closes)
            self.shares.book(chosen, n)
            piece = Rest(rest.document, tokens, start, start + n)
            if objective.pairs:
                self.waiting.setdefault(chosen, []).append(piece)
            else:
                self.jobs[chosen].append(_Job(piece))
            start += n

    def pair(self) -> list[Rest]:
        """Finds partners for the waiting pieces. Returns those whose objective has to be drawn again: they
        were to be half of a false pair and found no partner (they become true pairs where the mixture has no
        other objective)."""
        again: list[Rest] = []
        for chosen, pieces in self.waiting.items():
            nsp = cast(Nsp, self.objectives[chosen])
            limits = np.full(len(pieces), half_limit(self.length))
            texts = [piece.tokens[piece.start : piece.stop] for piece in pieces]
            splits = split_points(texts, self.lexicon, limits, self._draws(pieces, nsp.name, "split"))
            halved = [_Job(piece, split) for piece, split in zip(pieces, splits.tolist())]
            luck = self._draws(pieces, nsp.name, "true").numbers().tolist()
            is_false = [
                number >= nsp.true_rate and job.split < job.piece.stop - job.piece.start
                for number, job in zip(luck, halved)
            ]
            false = [job for job, swapped in zip(halved, is_false) if swapped]
            ring = Draws(self.key, nsp.name, "ring")
            pairs, alone = exchange([job.piece.document for job in false], ring)
            self.jobs[chosen] += [job for job, swapped in zip(halved, is_false) if not swapped]
            self.jobs[chosen] += [_Job(false[i].piece, false[i].split, false[j]) for i, j in pairs]
            if not self.unpaired:
                self.jobs[chosen] += [false[i] for i in alone]
                continue
            for i in alone:
                self.shares.book(chosen, false[i].piece.start - false[i].piece.stop)
                again.append(false[i].piece)
        return again

    def pieces(self) -> list[Piece]:
        """All that was cut, dressed, objective by objective."""
        pieces: list[Piece] = []
        for chosen, jobs in self.jobs.items():
            objective = self.objectives[chosen]
            draws = self._draws([job.piece for job in jobs], objective.name)
            for first, stop in _batches([job.piece.stop - job.piece.start for job in jobs]):
                sources = [self._source(job) for job in jobs[first:stop]]
                examples = objective.make_all(sources, draws.part(first, stop))
                for job, example in zip(jobs[first:stop], examples):
                    if len(example.tokens) > self.length:
                        raise ValueError(_too_long(objective.name, job, example, self.length))
                    pieces.append(Piece(objective.id, _spans(job), example))
        return pieces

    def _draws(self, pieces: list[Rest], *purpose: str) -> DrawsOfMany:
        keys = np.array([self.document_keys[piece.document] for piece in pieces], dtype=np.uint64)
        return DrawsOfMany(extend_all(keys, np.array([piece.start for piece in pieces]), *purpose))

    def _source(self, job: _Job) -> Source:
        piece = job.piece
        tokens, start, stop = piece.tokens, piece.start, piece.stop
        first, last = start == 0, stop == len(tokens)
        before = self.begin if first else int(tokens[start - 1])
        after = self.end if last else int(tokens[stop])
        neighbour = None if job.partner is None else self._source(job.partner)
        return Source(tokens[start:stop], before, after, first, last, self.lexicon, neighbour, job.split)


def _spans(job: _Job) -> tuple[Span, ...]:
    """The source tokens that a job uses."""
    piece = job.piece
    if job.partner is None:
        return (Span(piece.document, piece.start, piece.stop),)
    other = job.partner.piece
    return (
        Span(piece.document, piece.start, piece.start + job.split),
        Span(other.document, other.start + job.partner.split, other.stop),
    )


def _batches(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Runs [first, stop) of pieces that make up about BATCH tokens: much for numpy, little for the cache."""
    first = tokens = 0
    for i, size in enumerate(sizes):
        tokens += size
        if tokens >= BATCH or i == len(sizes) - 1:
            yield first, i + 1
            first, tokens = i + 1, 0


def _too_long(name: str, job: _Job, example: Example, length: int) -> str:
    return (
        f"{name}: {job.piece.stop - job.piece.start} tokens became {len(example.tokens)} positions, more "
        f"than {length}: its fit or the lexicon's spread is wrong"
    )
