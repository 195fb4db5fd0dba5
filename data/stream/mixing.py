"""From how much text the rows of a step come: how many documents, blocks and shards.

Every rank that follows a stream walks all of its draws, so the one that reports the stream knows them all,
whosever rows they are. What each rank notes of the streams that it reports therefore adds up to what one rank
alone would note:

    documents, blocks    counted by the reporting rank; each belongs to one block of one stream
    shards               several streams may draw from one: so each stream's blocks of the step are told, by
                         number, and whoever has the sums looks up in which shards they lie

    stream   0   1   2   3        j     0     1     2     3      a stream's blocks, in its order
    reach    3   -   5   2   …          first = 3, behind the last = 5: its blocks 3 and 4

A document counts once a block, all parts of a long one together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.plan.plan import CorpusPlan
from data.stream.block import Opener


@dataclass(frozen=True, slots=True)
class StepDraws:
    """Of one step. reach: int64 [streams of all corpora, one corpus behind the other, 2]: the number of the
    first block that a stream drew from and the one behind its last; 0, 0 where it drew nothing, or where
    another rank reports it. Blocks that gave no row lie in a reach, and are not counted."""

    documents: int = 0
    blocks: int = 0
    reach: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    @property
    def vector(self) -> np.ndarray:
        """float64 [2 + 2 · streams]: what adds up over ranks."""
        return np.concatenate([[self.documents, self.blocks], self.reach.ravel()]).astype(np.float64)

    @staticmethod
    def of_vector(vector: np.ndarray) -> "StepDraws":
        """The inverse of `vector`."""
        numbers = np.rint(vector).astype(np.int64)
        return StepDraws(int(numbers[0]), int(numbers[1]), numbers[2:].reshape(-1, 2))


def vector_length(corpora: Sequence[CorpusPlan]) -> int:
    """Of the vector of a StepDraws under a plan with these corpora."""
    return 2 + 2 * sum(corpus.streams for corpus in corpora)


class Tally:
    """Notes the draws of one rank, and gives what was noted since it was last asked."""

    def __init__(self, corpora: Sequence[CorpusPlan]) -> None:
        self._starts = np.cumsum([0, *(corpus.streams for corpus in corpora)]).tolist()
        self._noted: dict[tuple[int, int, int, int], list[np.ndarray]] = {}

    def add(self, corpus: int, stream: int, j: int, slots: int, documents: np.ndarray) -> None:
        """Rows of a block of so many slots were drawn, in which these documents (int64, numbers within it)
        have a part."""
        self._noted.setdefault((corpus, stream, j, slots), []).append(documents)

    def take(self) -> StepDraws:
        """All of it since the last call."""
        reach = np.zeros((self._starts[-1], 2), dtype=np.int64)
        documents = 0
        for (corpus, stream, j, slots), parts in self._noted.items():
            documents += len(np.unique(np.concatenate(parts)))
            place = self._starts[corpus] + stream
            first, end = reach[place].tolist()
            reach[place] = (min(first, j) if end else j), max(end, j + slots)
        blocks = len(self._noted)
        self._noted.clear()
        return StepDraws(documents, blocks, reach)


class ShardsOf:
    """Looks up in which shards drawn blocks lie. From step to step they are mostly the same."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._known: dict[tuple[str, int], int] = {}

    def __call__(self, drawn: StepDraws) -> int:
        """The number of shards that the blocks of a step lie in, all ranks' added up."""
        reach, known, shards = iter(drawn.reach.tolist()), {}, set()
        for corpus in self._opener.plans.values():
            for stream in range(corpus.streams):
                first, end = next(reach)
                for j in range(first, end):
                    at = corpus.name, stream + j * corpus.streams
                    known[at] = self._known[at] if at in self._known else self._shard(*at)
                    shards.add((corpus.name, known[at]))
        self._known = known
        return len(shards)

    def _shard(self, corpus: str, block_slot: int) -> int:
        number = self._opener.orders[corpus].resolve(block_slot)[1]
        unit = self._opener.blocks[corpus].units_of(number)[0]
        return int(self._opener.corpora[corpus].index.units["shard"][unit])
