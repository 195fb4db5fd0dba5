"""Which block stands at each of a corpus's places 0, 1, 2, …

From the start (era 0) the places are epochs over N blocks, (e, i) = divmod(place, N), dealt as
data/plan/dealing.py says. Shards appended at place G open an era: its first M places are a keyed permutation
of the R places that the running epoch had left and of the new blocks; behind them come epochs over all
blocks. So a block is at exactly one place of each epoch, wherever the edits fall. A place below G belongs to
the era before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.plan.dealing import Deal
from data.plan.permutation import perm, perm_inverse
from objectives.draws import key


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
