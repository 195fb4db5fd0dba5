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


class Deal:
    """The epochs over N blocks. Slot i of an epoch, 0 … N−1, belongs to stream (first + i) mod S, `first`
    being the corpus's slot at which the epoch begins."""

    def __init__(self, text_bytes: np.ndarray, streams: int, key: int) -> None:
        """text_bytes: int64 [N], of each block; streams: S; key: of the corpus, for what holds in all
        epochs."""
        self.blocks, self.streams, self._key = len(text_bytes), streams, key
        self._strata = self.blocks // streams
        self._bytes = text_bytes

    @cached_property
    def _ranked(self) -> np.ndarray:
        """int32 [N]: the blocks, the largest first; one stream gets all of them in any case."""
        if self.streams == 1:
            return np.arange(self.blocks, dtype=np.int32)
        return np.argsort(-self._bytes, kind="stable").astype(np.int32)

    @cached_property
    def _ranks(self) -> np.ndarray:
        """int32 [N]: the inverse of `_ranked`."""
        ranks = np.empty_like(self._ranked)
        ranks[self._ranked] = np.arange(self.blocks, dtype=np.int32)
        return ranks

    def block(self, slot: int, epoch: int, first: int, key: int) -> int:
        """The block at slot 0 … N−1 of an epoch; first: where the epoch begins; key: of the epoch."""
        stream = (first + slot) % self.streams
        turn, behind = divmod(slot, self.streams)
        stratum = perm(turn, self._turns(behind), self._order_key(key, stream))
        if stratum < self._strata:
            rank = stratum * self.streams + (stream + epoch + self._shift(stratum)) % self.streams
        else:
            rank = stratum * self.streams + behind
        return int(self._ranked[rank])

    def slot(self, block: int, epoch: int, first: int, key: int) -> int:
        """The slot 0 … N−1 of an epoch at which a block stands: the inverse of `block`."""
        stratum, member = divmod(int(self._ranks[block]), self.streams)
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
