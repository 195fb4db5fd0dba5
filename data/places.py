"""Which blocks a corpus has, and which block stands at each of its places 0, 1, 2, …

**Grouping.** Held-out units are set aside first, by key. What is left of a shard is divided evenly into
blocks of about `block_bytes` of text; a block never spans two shards. Appended shards bring their own
held-out units and blocks, behind the old ones; nothing that existed changes.

**Eras.** From the start (era 0) the places are epochs over N blocks, (e, i) = divmod(place, N), dealt as
data/dealing.py says. Shards appended at place G open an era: its first M places are a keyed permutation of
the R places that the running epoch had left and of the new blocks; behind them come epochs over all blocks.
So a block is at exactly one place of each epoch, wherever the edits fall. A place below G belongs to the era
before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.dealing import Deal
from data.order import perm, perm_inverse
from objectives.draws import Draws, key


@dataclass(frozen=True)
class Era:
    """What holds from a place of the corpus on. fingerprint: of its units, without paths."""

    place: int
    units: int
    blocks: int
    fingerprint: str


@dataclass(frozen=True)
class _Run:
    """An era's arithmetic: `left` places of the era before are mixed with the new blocks; then epochs, the
    first of them numbered `epoch`, as `deal` says."""

    place: int
    old_blocks: int
    left: int
    rest: int
    epoch: int
    deal: Deal

    @property
    def blocks(self) -> int:
        return self.deal.blocks

    def first(self, epoch: int) -> int:
        """The place of the first block of an epoch."""
        return self.place + self.rest + (epoch - self.epoch) * self.blocks


class Order:
    """Place → (epoch, block) and back, for the eras of one corpus."""

    def __init__(
        self, seed: int, corpus: str, eras: Sequence[Era], streams: int, text_bytes: np.ndarray
    ) -> None:
        """streams: S; text_bytes: int64, of each block of the last era."""
        self._seed, self._corpus = seed, corpus
        self._runs: list[_Run] = []
        for era in eras:
            deal = Deal(text_bytes[: era.blocks], streams, key(seed, "deal", corpus))
            self._runs.append(self._run(era, deal))

    def _run(self, era: Era, deal: Deal) -> _Run:
        if not self._runs:
            return _Run(0, 0, 0, 0, 0, deal)
        before = self._runs[-1]
        past = era.place - before.place
        if past < before.rest:
            left, running = before.rest - past, before.epoch - 1
        else:
            epochs, i = divmod(past - before.rest, before.blocks)
            left, running = before.blocks - i, before.epoch + epochs
        new = era.blocks - before.blocks
        return _Run(era.place, before.blocks, left, left + new, running + 1, deal)

    def resolve(self, place: int) -> tuple[int, int]:
        """(epoch, block) of a place."""
        number = max(k for k, run in enumerate(self._runs) if run.place <= place)
        while True:
            run = self._runs[number]
            past = place - run.place
            if past >= run.rest:
                epochs, i = divmod(past - run.rest, run.blocks)
                epoch = run.epoch + epochs
                return epoch, run.deal.block(i, epoch, run.first(epoch), self._epoch_key(epoch))
            q = perm(past, run.rest, self._rest_key(number))
            if q >= run.left:
                return run.epoch - 1, run.old_blocks + q - run.left
            place, number = run.place + q, number - 1

    def places_of(self, block: int, limit: int) -> Iterator[int]:
        """The places below `limit` at which a block stands, in no particular order."""
        for number, run in enumerate(self._runs):
            if block < run.blocks:
                for place in self._own_places(number, block, limit):
                    yield from (lifted for lifted in self._lift(place, number) if lifted < limit)

    def _own_places(self, number: int, block: int, limit: int) -> Iterator[int]:
        """The places at which era `number` itself puts a block: once as a new one, then once an epoch."""
        run = self._runs[number]
        if number and block >= run.old_blocks:
            q = run.left + block - run.old_blocks
            yield run.place + perm_inverse(q, run.rest, self._rest_key(number))
        later = self._runs[number + 1] if number + 1 < len(self._runs) else None
        end = later.place + later.left if later else limit
        epoch, first = run.epoch, run.first(run.epoch)
        while first < end:
            place = first + run.deal.place(block, epoch, first, self._epoch_key(epoch))
            if place < end:
                yield place
            epoch, first = epoch + 1, first + run.blocks

    def _lift(self, place: int, number: int) -> Iterator[int]:
        """Where a place of era `number` came to lie when later eras permuted what was left of it."""
        for later in range(number + 1, len(self._runs)):
            run = self._runs[later]
            if place >= run.place:
                if place >= run.place + run.left:
                    return
                place = run.place + perm_inverse(place - run.place, run.rest, self._rest_key(later))
        yield place

    def _epoch_key(self, epoch: int) -> int:
        return key(self._seed, "blocks", self._corpus, epoch)

    def _rest_key(self, number: int) -> int:
        return key(self._seed, "rest", self._corpus, number)


class Blocks:
    """The held-out units and the blocks of a corpus, from its table of units."""

    def __init__(
        self,
        seed: int,
        corpus: str,
        units: np.ndarray,
        counts: Sequence[int],
        held_out: float,
        block_bytes: int,
    ) -> None:
        """units: the index's table (fields shard, text_bytes); counts: units of each era, cumulative."""
        self.held_out = _held_out(seed, corpus, counts, held_out)
        kept = np.ones(counts[-1], dtype=bool)
        kept[self.held_out] = False
        self._units = np.flatnonzero(kept)
        bytes_ = units["text_bytes"][self._units].astype(np.int64)
        self._ends = _group(units["shard"][self._units].astype(np.int64), bytes_, block_bytes)
        self.text_bytes: np.ndarray = np.diff(np.cumsum(bytes_)[self._ends - 1], prepend=0)
        """int64 [blocks]: bytes of text in each."""

    def __len__(self) -> int:
        return len(self._ends)

    def count(self, units: int) -> int:
        """Blocks of the corpus's first `units` units."""
        return int(np.searchsorted(self._ends, np.searchsorted(self._units, units), side="right"))

    def _slice(self, block: int) -> tuple[int, int]:
        return int(self._ends[block - 1]) if block else 0, int(self._ends[block])

    def units_of(self, block: int) -> list[int]:
        """The unit numbers of a block."""
        first, end = self._slice(block)
        return self._units[first:end].tolist()

    def block_of(self, unit: int) -> int | None:
        """The block of a unit; None for a held-out one."""
        at = int(np.searchsorted(self._units, unit))
        if at == len(self._units) or self._units[at] != unit:
            return None
        return int(np.searchsorted(self._ends, at, side="right"))


def _held_out(seed: int, corpus: str, counts: Sequence[int], fraction: float) -> np.ndarray:
    """int64: the held-out units, ascending: of each era's new units the `fraction` with the smallest draws;
    of the first era at least one and never all (none where it has a single unit)."""
    luck = Draws(key(seed, "held-out", corpus)).bits(counts[-1])
    chosen = []
    first = 0
    for number, end in enumerate(counts):
        take = round(fraction * (end - first))
        if number == 0 and fraction > 0:
            take = min(max(take, 1), end - first - 1)
        chosen.append(first + np.argsort(luck[first:end], kind="stable")[:take])
        first = end
    return np.sort(np.concatenate(chosen))


def _group(shards: np.ndarray, text_bytes: np.ndarray, block_bytes: int) -> np.ndarray:
    """int64: the end (exclusive) of each block in the list of kept units."""
    if not len(shards):
        return np.empty(0, dtype=np.int64)
    first = np.flatnonzero(np.diff(shards, prepend=shards[0] - 1))
    ends = []
    for start, end in zip(first, [*first[1:], len(shards)]):
        sizes = text_bytes[start:end]
        total = int(sizes.sum())
        blocks = max(1, round(total / block_bytes))
        twice_middle = 2 * np.cumsum(sizes) - sizes
        group = np.minimum(twice_middle * blocks // max(2 * total, 1), blocks - 1)
        ends.append(start + np.flatnonzero(np.diff(group, append=blocks)) + 1)
    return np.concatenate(ends).astype(np.int64)
