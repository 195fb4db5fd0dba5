"""Which block stands at which slot of an epoch: dealt so that every stream gets the same share of the text.

The streams of a corpus take turns by rows, so they end an epoch together only where each was dealt as many
rows. Dealt at random they are not, and the differences add up from epoch to epoch: with two streams over the
standard library's sources neighbouring epochs overlapped by 45 % after forty of them. So the blocks are
ranked by their bytes of text and cut into strata of S; each stream gets one block of each stratum, another
one every epoch, in an order of its own. The N mod S smallest blocks are left over, and go to the streams that
have one slot more. With N = 8 blocks and S = 3 streams, in an epoch that begins with stream 0:

    ranked by text    largest                     smallest
    block             5    0    3    7    1    6    4    2
    rank              0    1    2    3    4    5    6    7
    stratum           ╰─── 0 ──╯     ╰─── 1 ──╯     ╰ 2 ╯      rank = stratum · S + member

    slot              0    1    2    3    4    5    6    7
    stream            0    1    2    0    1    2    0    1     turn = slot div S, behind = slot mod S
    turn              0    0    0    1    1    1    2    2

At turn t a stream takes from the stratum at place t of its own order: of a whole stratum the member (stream +
epoch + shift of the stratum) mod S, which no other stream takes in this epoch; of the last one, which is not
whole, the member `behind`. Only the streams with one slot more have that one in their order.
"""

from functools import cached_property

import numpy as np

from data.plan.permutation import perm, perm_inverse
from objectives.rng import extend


def largest_first(text_bytes: np.ndarray) -> np.ndarray:
    """int32 [N]: the blocks by their bytes of text, the largest first; of equal ones the first first.
    text_bytes: int64 [N]."""
    most, blocks = int(text_bytes.max(initial=0)), len(text_bytes)
    if most >= 1 << 32:
        return np.argsort(-text_bytes, kind="stable").astype(np.int32)
    smallness = (most - text_bytes).astype(np.uint64) << np.uint64(32)
    smallness |= np.arange(blocks, dtype=np.uint64)  # one number a block: it sorts faster than argsort
    smallness.sort()
    return smallness.astype(np.uint32).astype(np.int32)


class Deal:
    """The epochs over N blocks. Slot i of an epoch, 0 … N−1, belongs to stream (first + i) mod S, `first`
    being the corpus's slot at which the epoch begins."""

    def __init__(self, ranked: np.ndarray, streams: int, key: int) -> None:
        """ranked: int32 [N], the blocks, the largest first; streams: S, a single one gets all of them in
        their own order; key: of the corpus, for what holds in all epochs."""
        self.blocks, self.streams, self._key = len(ranked), streams, key
        self._strata = self.blocks // streams
        self._ranked = ranked

    @cached_property
    def _ranks(self) -> np.ndarray:
        """int32 [N]: the inverse of `_ranked`."""
        ranks = np.empty(self.blocks, dtype=np.int32)
        ranks[self._ranked] = np.arange(self.blocks, dtype=np.int32)
        return ranks

    def _of_rank(self, rank: int) -> int:
        return rank if self.streams == 1 else int(self._ranked[rank])

    def _rank_of(self, block: int) -> int:
        return block if self.streams == 1 else int(self._ranks[block])

    def block(self, slot: int, epoch: int, first: int, key: int) -> int:
        """The block at slot 0 … N−1 of an epoch; first: where the epoch begins; key: of the epoch."""
        stream = (first + slot) % self.streams
        turn, behind = divmod(slot, self.streams)
        stratum = perm(turn, self._turns(behind), self._order_key(key, stream))
        if stratum < self._strata:
            rank = stratum * self.streams + (stream + epoch + self._shift(stratum)) % self.streams
        else:
            rank = stratum * self.streams + behind
        return self._of_rank(rank)

    def slot(self, block: int, epoch: int, first: int, key: int) -> int:
        """The slot 0 … N−1 of an epoch at which a block stands: the inverse of `block`."""
        stratum, member = divmod(self._rank_of(block), self.streams)
        if stratum < self._strata:
            stream = (member - epoch - self._shift(stratum)) % self.streams
            behind = (stream - first) % self.streams
        else:
            behind = member
            stream = (first + behind) % self.streams
        turn = perm_inverse(stratum, self._turns(behind), self._order_key(key, stream))
        return turn * self.streams + behind

    def _turns(self, behind: int) -> int:
        """Slots in an epoch of the stream whose first one comes `behind` slots after the epoch's first."""
        return self._strata + (behind < self.blocks % self.streams)

    def _order_key(self, key: int, stream: int) -> int:
        return key if self.streams == 1 else extend(key, stream)

    def _shift(self, stratum: int) -> int:
        """Where the turning of a stratum begins."""
        return extend(self._key, stratum) % self.streams
