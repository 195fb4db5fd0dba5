"""How a block's documents become examples: shared out among the objectives and cut, exchanged, made.

    document 0   ├────causal────┤├───mlm───┤├────nsp────┤     cut from the left; each segment goes to
    document 1   ├─nsp─┤├──────causal──────┤├mlm┤              the objective that is owed most (shares.py)
                                 ↓
    nsp          0 a a a|A A   1 b|B                           parts are exchanged (objective.py), and what
                 0 a a a|B     1 b|A A                         found no partner is cut again
                                 ↓
    Segments     Examples of causal, of mlm, of nsp            made in batches, one objective after the other

Choosing per segment and not per document is what keeps the shares exact whatever the lengths of documents;
choosing before packing is what keeps the padding small. Cutting goes segment by segment, for each choice
depends on the one before; all the rest is done for many segments at once, and where there is no choice,
because one objective gets all, so is the cutting of documents that it takes whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from objectives.example import Sources, TokenizerView
from objectives.mixture import Mixture
from objectives.noise import LONGEST, MOST
from objectives.objective import LEAST_ROOM, BlockSegments
from objectives.ragged import runs_of, starts_between, starts_of
from objectives.rng import Rng, RngBatch, extend, extend_all
from objectives.segments import SegmentBatch, Segments, Texts
from objectives.shares import Shares

SHORTEST = LEAST_ROOM
"""The least T."""
BATCH = 1 << 18
"""Source tokens made into examples at once: those of a usual block; what is larger is done in parts, for the
memory."""


@dataclass(slots=True)
class _Cuts:
    """The segments of an objective as int64 [segments, 3] (document, start, stop), the lengths of their first
    parts (0 where nothing is exchanged), and whose second part each takes (its own index: its own)."""

    cuts: np.ndarray
    splits: np.ndarray
    partners: np.ndarray

    @staticmethod
    def whole(cuts: np.ndarray) -> "_Cuts":
        return _Cuts(cuts, np.zeros(len(cuts), dtype=np.int64), np.arange(len(cuts)))


class ExampleBuilder:
    """The work on one block: `ExampleBuilder(…).segments()` is a pure function of the arguments.

    Every token of every rest is in exactly one span of exactly one segment, and no example is longer than T.
    A document is cut only where it is longer than its objective's fit, or where parts found no partner. The
    random numbers of a segment are keyed (its document's key, its first token, the objective's name).
    """

    def __init__(
        self,
        texts: Texts,
        rests: np.ndarray,
        mixture: Mixture,
        row: int,
        length: int,
        tokenizer: TokenizerView,
        key: int,
        document_keys: np.ndarray | Sequence[int],
    ) -> None:
        """rests: int64 [n, 3] (document, start, stop), what is left of the documents to use; row: the global
        row whose weights hold; length: T; key: of this build of the block; document_keys: one for each
        document. ValueError where T is out of range."""
        if not SHORTEST <= length <= LONGEST:
            raise ValueError(f"length: expected {SHORTEST} to {LONGEST} positions a row, got {length}")
        self.texts, self.rests, self.length, self.tokenizer, self.key = texts, rests, length, tokenizer, key
        self.document_keys = np.asarray(document_keys, dtype=np.uint64)
        self.objectives = [entry.objective for entry in mixture.entries]
        self.index = {objective.id: i for i, objective in enumerate(self.objectives)}
        self.least_rooms = {
            objective.id: None if objective.exchanges else objective.least_room
            for objective in self.objectives
        }
        sizes = _cut_sizes(rests[:, 2] - rests[:, 1], length)
        self.shares = Shares(mixture.weights(row).tolist(), sizes, Rng(key, "shares"))
        self.keeping = [i for i in self.shares.active if not self.objectives[i].exchanges]
        self.cuts: dict[int, list[tuple[int, int, int]]] = {i: [] for i in self.shares.active}
        self.exchanged: dict[int, _Cuts] = {}

    def segments(self) -> Segments:
        """All segments of the block, those of one objective behind those of another."""
        whole = self._taken_whole()
        active, rests = self.shares.active, self.rests[~whole].tolist()
        counts = [self._cut(document, start, stop, active) for document, start, stop in rests]
        for document, start, stop in self._exchange():
            self._cut(document, start, stop, self.keeping)
        own = {i: self.exchanged.get(i) or _Cuts.whole(self._array(i)) for i in active}
        if whole.any():  # of one objective: its segments in the order of the rests
            of_rest = np.concatenate([np.flatnonzero(whole), np.repeat(np.flatnonzero(~whole), counts)])
            cuts = np.concatenate([self.rests[whole], own[active[0]].cuts])
            own = {active[0]: _Cuts.whole(cuts[np.argsort(of_rest, kind="stable")])}
        return Segments([batch for i, cuts in own.items() for batch in self._examples(i, cuts)])

    def with_parts(self, segments: Segments, parts: Mapping[int, Sequence[tuple[int, int, int]]]) -> Segments:
        """The segments, and behind them Examples of parts of some of them. parts: registry id → int
        (document, start, stop) of each, in the order in which they will stand."""
        made = [
            batch
            for number, cuts in parts.items()
            for batch in self._examples(self.index[number], _Cuts.whole(np.array(cuts)))
        ]
        return Segments([*segments.batches, *made])

    def _taken_whole(self) -> np.ndarray:
        """bool [rests]: those that become one segment each, of the only objective there is."""
        only = self.objectives[self.shares.active[0]]
        if len(self.shares.active) > 1 or only.exchanges:
            return np.zeros(len(self.rests), dtype=bool)
        documents, starts, stops = self.rests.T
        closes = (stops == self.texts.sizes[documents]) & self.texts.closes[documents]
        return only.takes_whole(stops - starts, self.length, starts == 0, closes)

    def _array(self, chosen: int) -> np.ndarray:
        """int64 [segments, 3]: what was cut for an objective."""
        return np.array(self.cuts[chosen], dtype=np.int64).reshape(-1, 3)

    def _cut(self, document: int, start: int, stop: int, allowed: list[int]) -> int:
        """Cuts [start, stop) of a document into segments of the allowed objectives. Returns how many."""
        count = 0
        tokens = self.texts[document]
        closes = stop == len(tokens) and bool(self.texts.closes[document])
        while start < stop:
            chosen = allowed[0]
            if len(allowed) > 1:
                # A segment of one token has no second part, so it goes to an objective that exchanges none.
                choice = allowed if stop - start > 1 else self.keeping or allowed
                chosen = self.shares.most_owed(min(stop - start, self.length), choice)
            remaining = tokens[start:stop]
            n = self.objectives[chosen].fit(remaining, self.length, self.tokenizer, start == 0, closes)
            self.shares.book(chosen, n)
            self.cuts[chosen].append((document, start, start + n))
            start += n
            count += 1
        return count

    def _exchange(self) -> list[tuple[int, int, int]]:
        """Asks the objectives that exchange parts who does it with whom. Returns the segments that found no
        partner, taken back, to be cut again; without an objective that keeps its parts they stay as they
        are."""
        again: list[tuple[int, int, int]] = []
        for chosen in self.cuts:
            objective = self.objectives[chosen]
            if not objective.exchanges or not self.cuts[chosen]:
                continue
            cuts = self._array(chosen)
            keys = extend_all(self.document_keys[cuts[:, 0]], cuts[:, 1], objective.name)
            sources, _, _ = self._sources(_Cuts.whole(cuts), slice(None))
            origin = self.texts.origin[cuts[:, 0]]
            own = BlockSegments(sources, origin, self.length, keys, extend(self.key, objective.name))
            found = objective.exchange(own)
            if not ((found.splits >= 1) & (found.splits <= sources.sizes)).all():
                raise ValueError(f"{objective.name}: a split of its exchange is not inside the segment")
            stay = np.ones(len(cuts), dtype=bool)
            if self.keeping:
                stay[found.alone] = False
                for document, start, stop in cuts[~stay].tolist():
                    self.shares.book(chosen, start - stop)
                    again.append((document, start, stop))
            index = np.cumsum(stay) - 1
            self.exchanged[chosen] = _Cuts(cuts[stay], found.splits[stay], index[found.partners[stay]])
        return again

    def _examples(self, chosen: int, own: _Cuts) -> Iterator[SegmentBatch]:
        """Segments of an objective, batch by batch."""
        objective = self.objectives[chosen]
        keys = extend_all(self.document_keys[own.cuts[:, 0]], own.cuts[:, 1], objective.name)
        rng = RngBatch(keys)
        for first, stop in _batches(own.cuts[:, 2] - own.cuts[:, 1]):
            sources, spans, counts = self._sources(own, slice(first, stop))
            examples = objective.make_all(sources, rng.part(first, stop))
            if examples.sizes.max() > self.length:
                raise ValueError(
                    f"{objective.name}: a segment became {examples.sizes.max()} positions, more than "
                    f"{self.length}: its fit or the tokenizer is wrong"
                )
            yield SegmentBatch(examples, spans, counts)

    def _starts(self, spans: np.ndarray) -> np.ndarray:
        """int64 [n]: where in `around` each of int64 [n, 3] (document, start, stop) starts."""
        return self.texts.starts[spans[:, 0]] + spans[:, 1]

    def _sources(self, own: _Cuts, part: slice) -> tuple[Sources, np.ndarray, np.ndarray]:
        """The segments of a part; their spans, int64 [n, 3] (document, start, stop); how many each has."""
        cuts, splits, partners = own.cuts[part], own.splits[part], own.partners[part]
        foreign = partners != np.arange(len(own.cuts))[part]
        around, starts, sizes = self.texts.around, self._starts(cuts), cuts[:, 2] - cuts[:, 1]
        spans, counts = cuts, np.ones(len(cuts), dtype=np.int64)
        if foreign.any():
            # These segments lie nowhere as a whole: their parts are brought together.
            mine, other = cuts.copy(), own.cuts[partners]
            mine[foreign, 2] = (cuts[:, 1] + splits)[foreign]
            other[:, 1] += own.splits[partners]
            counts += foreign
            both = np.stack([mine, other], axis=1).reshape(-1, 3)
            spans = both[np.column_stack([np.ones_like(foreign), foreign]).ravel()]
            around, starts, sizes = self._joined(spans, counts)
        first = cuts[:, 1] == 0
        last = (cuts[:, 2] == self.texts.sizes[cuts[:, 0]]) & self.texts.closes[cuts[:, 0]]
        sources = Sources(around, starts, sizes, first, last, splits, foreign, self.tokenizer)
        return sources, spans, counts

    def _joined(self, spans: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(around, starts, sizes) of segments of counts[p] spans each: from the token before the first of
        them to the one behind the last."""
        starts, lengths = self._starts(spans), spans[:, 2] - spans[:, 1]
        opening, closing = starts_of(counts), np.cumsum(counts) - 1
        sizes = np.add.reduceat(lengths, opening)
        starts[opening] -= 1
        lengths[opening] += 1
        lengths[closing] += 1
        return np.concatenate(runs_of(self.texts.around, starts, lengths)), starts_between(sizes), sizes


def _cut_sizes(rests: np.ndarray, length: int) -> list[int]:
    """Of rests of these lengths cut into segments of up to `length` tokens."""
    whole, left = np.divmod(rests, length)
    sizes = np.full(int((whole + (left > 0)).sum()), length)
    sizes[(np.cumsum(whole + (left > 0)) - 1)[left > 0]] = left[left > 0]
    return sizes.tolist()


def _batches(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs [first, stop) of segments of about BATCH tokens together, and no more than noise can number."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        stop = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + BATCH)) + 1
        stop = min(stop, first + MOST, len(sizes))
        yield first, stop
        first = stop
