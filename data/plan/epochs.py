"""Which block stands at each of a corpus's slots 0, 1, 2, …

From the start (era 0) the slots are epochs over N blocks, (e, i) = divmod(slot, N), dealt as
data/plan/dealing.py says. Shards appended at slot G open an era: its first M slots are a keyed permutation
of the R slots that the running epoch had left and of the new blocks; behind them come epochs over all
blocks. So a block is at exactly one slot of each epoch, wherever the edits fall. A slot below G belongs to
the era before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.plan.dealing import Deal
from data.plan.permutation import perm, perm_inverse
from objectives.rng import key


@dataclass(frozen=True)
class Era:
    """The corpus as it is from one of its slots on, until shards are appended: how many units and blocks it
    has. fingerprint: of its units, without paths."""

    slot: int
    units: int
    blocks: int
    fingerprint: str


@dataclass(frozen=True)
class _Run:
    """The arithmetic of one era.

        slot …                                    first(epoch) …              first(epoch + 1) …
        ├── rest: the `left` slots that the   ──┼── an epoch over all `blocks` ──┼── the next one …
            running epoch still had, and the
            new blocks, in a keyed order

    old_blocks: how many there were before; epoch: the number of the first whole epoch; deal: the order of
    the blocks within an epoch."""

    slot: int
    old_blocks: int
    left: int
    rest: int
    epoch: int
    deal: Deal

    @property
    def blocks(self) -> int:
        return self.deal.blocks

    def first(self, epoch: int) -> int:
        """The slot of the first block of an epoch."""
        return self.slot + self.rest + (epoch - self.epoch) * self.blocks


class BlockOrder:
    """Which (epoch, block) each slot of a corpus has, and which slots a block has, over all its eras."""

    def __init__(
        self, seed: int, corpus: str, eras: Sequence[Era], streams: int, ranked: Sequence[np.ndarray]
    ) -> None:
        """streams: S; ranked: for each era int32 [its blocks], the largest first (Blocks.ranked)."""
        self._seed, self._corpus = seed, corpus
        self._runs: list[_Run] = []
        for era, order in zip(eras, ranked, strict=True):
            deal = Deal(order, streams, key(seed, "deal", corpus))
            self._runs.append(self._run(era, deal))

    def _run(self, era: Era, deal: Deal) -> _Run:
        if not self._runs:
            return _Run(0, 0, 0, 0, 0, deal)
        before = self._runs[-1]
        past = era.slot - before.slot
        if past < before.rest:
            left, running = before.rest - past, before.epoch - 1
        else:
            epochs, i = divmod(past - before.rest, before.blocks)
            left, running = before.blocks - i, before.epoch + epochs
        new = era.blocks - before.blocks
        return _Run(era.slot, before.blocks, left, left + new, running + 1, deal)

    def resolve(self, slot: int) -> tuple[int, int]:
        """(epoch, block) of a slot."""
        number = max(k for k, run in enumerate(self._runs) if run.slot <= slot)
        while True:
            run = self._runs[number]
            past = slot - run.slot
            if past >= run.rest:
                epochs, i = divmod(past - run.rest, run.blocks)
                epoch = run.epoch + epochs
                return epoch, run.deal.block(i, epoch, run.first(epoch), self._epoch_key(epoch))
            q = perm(past, run.rest, self._rest_key(number))
            if q >= run.left:
                return run.epoch - 1, run.old_blocks + q - run.left
            slot, number = run.slot + q, number - 1

    def slots_of(self, block: int, limit: int) -> Iterator[int]:
        """The slots below `limit` at which a block stands, in no particular order."""
        for number, run in enumerate(self._runs):
            if block < run.blocks:
                for slot in self._own_slots(number, block, limit):
                    yield from (lifted for lifted in self._lift(slot, number) if lifted < limit)

    def _own_slots(self, number: int, block: int, limit: int) -> Iterator[int]:
        """The slots at which era `number` itself puts a block: once as a new one, then once an epoch."""
        run = self._runs[number]
        if number and block >= run.old_blocks:
            q = run.left + block - run.old_blocks
            yield run.slot + perm_inverse(q, run.rest, self._rest_key(number))
        later = self._runs[number + 1] if number + 1 < len(self._runs) else None
        end = later.slot + later.left if later else limit
        epoch, first = run.epoch, run.first(run.epoch)
        while first < end:
            slot = first + run.deal.slot(block, epoch, first, self._epoch_key(epoch))
            if slot < end:
                yield slot
            epoch, first = epoch + 1, first + run.blocks

    def _lift(self, slot: int, number: int) -> Iterator[int]:
        """Where a slot of era `number` came to lie when later eras permuted what was left of it."""
        for later in range(number + 1, len(self._runs)):
            run = self._runs[later]
            if slot >= run.slot:
                if slot >= run.slot + run.left:
                    return
                slot = run.slot + perm_inverse(slot - run.slot, run.rest, self._rest_key(later))
        yield slot

    def _epoch_key(self, epoch: int) -> int:
        return key(self._seed, "blocks", self._corpus, epoch)

    def _rest_key(self, number: int) -> int:
        return key(self._seed, "rest", self._corpus, number)
