"""How a block's documents are shared out among the objectives: cut, paired, built.

Documents are cut from the left. Before each cut the objective is chosen that is owed most source tokens
(objectives/shares.py). Choosing per segment and not per document is what keeps the shares exact whatever the
lengths of documents; choosing before packing is what keeps the padding small (rows of one objective each had
three times as much).
Cutting goes segment by segment, for each choice depends on the one before; all the rest is done for many
segments at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from objectives.example import Objective, Sources, TokenizerView
from objectives.noise import MOST
from objectives.nsp import Nsp, exchange, half_limit, split_points
from objectives.ragged import runs_of, starts_between, starts_of
from objectives.rng import Rng, RngBatch, extend_all
from objectives.segments import SegmentBatch, Segments, Texts
from objectives.shares import Shares

BATCH = 1 << 18
"""Source tokens built at once: those of a usual block; what is larger is done in parts, for the memory."""


@dataclass(slots=True)
class _Cuts:
    """The segments of an objective as int64 [segments, 3] (document, start, stop) and, of next-sentence
    segments, the lengths of the first halves and whose second half each takes (its own index: its own
    half)."""

    cuts: np.ndarray
    splits: np.ndarray
    partners: np.ndarray

    @staticmethod
    def whole(cuts: np.ndarray) -> "_Cuts":
        return _Cuts(cuts, np.zeros(len(cuts), dtype=np.int64), np.arange(len(cuts)))


class ExampleBuilder:
    """The work on one block: who is owed what, and what was cut for whom."""

    def __init__(
        self,
        texts: Texts,
        rests: np.ndarray,
        objectives: Sequence[Objective],
        weights: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        key: int,
        document_keys: np.ndarray | Sequence[int],
    ) -> None:
        """weights: of the objectives, sum 1; the rest as in objectives.mixture.make_examples."""
        self.texts, self.rests, self.objectives = texts, rests, objectives
        self.length, self.tokenizer, self.key = length, tokenizer, key
        typical = int((rests[:, 2] - rests[:, 1]).sum()) / max(len(rests), 1)
        self.shares = Shares(weights.tolist(), min(length, typical), Rng(key, "shares"))
        self.unpaired = [i for i in self.shares.active if not objectives[i].pairs]
        self.cuts: dict[int, list[tuple[int, int, int]]] = {i: [] for i in self.shares.active}
        self.halved: dict[int, _Cuts] = {}
        self.keys = np.asarray(document_keys, dtype=np.uint64)

    def segments(self) -> Segments:
        """Cuts, pairs and builds everything."""
        for document, start, stop in self.rests.tolist():
            self._cut(document, start, stop, self.shares.active)
        for document, start, stop in self._pair():
            self._cut(document, start, stop, self.unpaired)
        batches = [batch for chosen in self.cuts if self.cuts[chosen] for batch in self._examples(chosen)]
        return Segments(batches)

    def _cut(self, document: int, start: int, stop: int, allowed: list[int]) -> None:
        """Cuts [start, stop) of a document into segments of the allowed objectives."""
        tokens = self.texts[document]
        closes = stop == len(tokens)
        while start < stop:
            chosen = allowed[0]
            if len(allowed) > 1:
                # A segment of one token has no second half, so it goes to an objective that needs none.
                choice = allowed if stop - start > 1 else self.unpaired or allowed
                chosen = self.shares.most_owed(min(stop - start, self.length), choice)
            remaining = tokens[start:stop]
            n = self.objectives[chosen].fit(remaining, self.length, self.tokenizer, start == 0, closes)
            self.shares.book(chosen, n)
            self.cuts[chosen].append((document, start, start + n))
            start += n

    def _pair(self) -> list[tuple[int, int, int]]:
        """Halves the segments whose objective wants pairs, and finds partners for the false ones. Returns
        those whose objective has to be drawn again: they were to be half of a false pair and found no partner
        (they become true pairs where the mixture has no other objective)."""
        again: list[tuple[int, int, int]] = []
        for chosen in self.cuts:
            if not self.objectives[chosen].pairs or not self.cuts[chosen]:
                continue
            nsp = cast(Nsp, self.objectives[chosen])
            cuts = np.array(self.cuts[chosen])
            sizes, limit = cuts[:, 2] - cuts[:, 1], half_limit(self.length)
            text = np.concatenate(runs_of(self.texts.around, self._starts(cuts), sizes))
            uniform = self._rng(cuts, nsp.name, "split").numbers()
            splits = split_points(text, sizes, self.tokenizer, limit, uniform)
            drawn = self._rng(cuts, nsp.name, "true").numbers()
            false = np.flatnonzero((drawn >= nsp.true_rate) & (splits < sizes))
            firsts, seconds = splits[false], (sizes - splits)[false]
            documents = cuts[false, 0].tolist()
            among = Rng(self.key, nsp.name, "exchange")
            pairs, alone = exchange(documents, firsts.tolist(), seconds.tolist(), among)
            partners = np.arange(len(cuts))
            for i, j in pairs:
                partners[false[i]] = false[j]
            stay = np.ones(len(cuts), dtype=bool)
            if self.unpaired:
                stay[false[alone]] = False
                for document, start, stop in cuts[~stay].tolist():
                    self.shares.book(chosen, start - stop)
                    again.append((document, start, stop))
            index = np.cumsum(stay) - 1
            self.halved[chosen] = _Cuts(cuts[stay], splits[stay], index[partners[stay]])
        return again

    def _examples(self, chosen: int) -> Iterator[SegmentBatch]:
        """The segments of an objective, batch by batch."""
        objective = self.objectives[chosen]
        own = self.halved[chosen] if chosen in self.halved else _Cuts.whole(np.array(self.cuts[chosen]))
        rng = self._rng(own.cuts, objective.name)
        for first, stop in _batches(own.cuts[:, 2] - own.cuts[:, 1]):
            sources, spans, counts = self._sources(own, slice(first, stop))
            examples = objective.make_all(sources, rng.part(first, stop))
            if examples.sizes.max() > self.length:
                raise ValueError(
                    f"{objective.name}: a segment became {examples.sizes.max()} positions, more than "
                    f"{self.length}: its fit or the tokenizer is wrong"
                )
            yield SegmentBatch(examples, spans, counts)

    def _rng(self, cuts: np.ndarray, *purpose: str) -> RngBatch:
        return RngBatch(extend_all(self.keys[cuts[:, 0]], cuts[:, 1], *purpose))

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
            # These segments lie nowhere as a whole: their halves are brought together.
            mine, other = cuts.copy(), own.cuts[partners]
            mine[foreign, 2] = (cuts[:, 1] + splits)[foreign]
            other[:, 1] += own.splits[partners]
            counts += foreign
            both = np.stack([mine, other], axis=1).reshape(-1, 3)
            spans = both[np.column_stack([np.ones_like(foreign), foreign]).ravel()]
            around, starts, sizes = self._joined(spans, counts)
        first, last = cuts[:, 1] == 0, cuts[:, 2] == self.texts.sizes[cuts[:, 0]]
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


def _batches(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs [first, stop) of segments of about BATCH tokens together, and no more than noise can number."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        stop = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + BATCH)) + 1
        stop = min(stop, first + MOST, len(sizes))
        yield first, stop
        first = stop
