"""Opening a block: from its units on disk to rows, a pure function of (block, its build history).

1. read and encode its documents (data/stream/reading.py), where rows are longer than planned those of several
   slots (data/stream/joining.py);
2. build: cut into segments, choose objectives, make examples (objectives/example_builder.py);
3. pack the segments into rows of T (data/stream/packing.py), some of them cut where too much would be padding
   (data/stream/padding.py), and order the rows by key.

A block that was built before, at other settings, is built from its *remainder*: the token intervals that
no emitted row used. Replaying the build history from the text therefore gives the very rows of the first
time, which is why an open block can be dropped from memory at any moment and why a resume needs no buffers.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from data.errors import BadInput
from data.plan.block_file import blocks_of
from data.plan.blocks import Blocks
from data.plan.epochs import BlockOrder
from data.plan.plan import CorpusPlan
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus
from data.stream.joining import joined
from data.stream.packing import PackedBlock, pack
from data.stream.padding import fill_rows
from data.stream.reading import Documents, Encoder, UnitTrouble, read_documents
from data.stream.token_cache import TokenCache
from objectives.example_builder import ExampleBuilder
from objectives.rng import Rng, extend, extend_all, key

_DOCUMENT = 150
"""Bytes of what is noted of a document, measured."""
_PER_TEXT_BYTE, _PER_DOCUMENT = 22, 600
"""The most that an open block can hold for a byte of text (next-sentence, where each byte is a token) and for
what is noted of a document and its segment. Measured at 3.2 bytes a token: causal 1.4 a byte of text, mlm and
prefix 5.0, span 5.4, next-sentence 6.5."""
_FADING = 0.9
"""What the widest block of a corpus counts at the next one."""


@dataclass(frozen=True, slots=True)
class BlockRows:
    """The rows that a block gave (or its remainder, from the second build on), in order of emission."""

    row: int
    rows: PackedBlock


@dataclass(slots=True)
class OpenBlock:
    """A block in use. block_slot: the first of its slots; slots: how many; epoch: of the first; used: int64
    [n, 3], the token intervals (document, start, stop) that rows of earlier builds used."""

    corpus: CorpusPlan
    block_slot: int
    slots: int
    epoch: int
    documents: Documents
    used: np.ndarray
    built: BlockRows

    @property
    def nbytes(self) -> int:
        """Bytes held, to about a tenth."""
        tokens = self.documents.tokens
        return self.built.rows.nbytes + tokens.around.nbytes + _DOCUMENT * len(tokens)


class Opener:
    """Opens blocks of all corpora, without the units that the history skips. Thread-safe: nothing here
    changes but how much memory a block is expected to take."""

    def __init__(
        self,
        plan_segments: PlanSegments,
        corpora: Mapping[str, Corpus],
        encoder: Encoder,
        token_cache: TokenCache | None = None,
    ) -> None:
        """BadInput where a corpus is not the one that the plan fingerprinted."""
        plan = plan_segments.last.plan
        self.plan_segments, self.seed, self.encoder = plan_segments, plan.seed, encoder
        self.corpora, self._token_cache = corpora, token_cache
        self.plans = {corpus.name: corpus for corpus in plan.corpora}
        self.orders: dict[str, BlockOrder] = {}
        self.blocks: dict[str, Blocks] = {}
        self._width: dict[str, float] = {}
        for corpus in plan.corpora:
            if corpus.name in corpora:
                _check(corpus, corpora[corpus.name])
                text, counts = corpora[corpus.name], [era.units for era in corpus.eras]
                blocks = blocks_of(text, plan.seed, corpus.name, counts, corpus.held_out, plan.block_bytes)
                self.blocks[corpus.name] = blocks
                self.orders[corpus.name] = BlockOrder(
                    plan.seed, corpus.name, corpus.eras, corpus.streams, blocks.ranked
                )

    def slots_at(self, row: int) -> int:
        """How many consecutive slots of a stream a block has that is opened at a row."""
        return self.plan_segments.at(row).plan.slots

    def expected_nbytes(self, corpus: str, block_slot: int, row: int) -> int:
        """About what the block at a slot will hold when it is opened at a row: by the widest blocks of its
        corpus so far, for objectives and tokenizers differ tenfold; before the first one, the most that it
        can."""
        most = self._most_nbytes(corpus, self._slots(corpus, block_slot, row))
        return int(self._width.get(corpus, 1.0) * most)

    def _slots(self, corpus: str, block_slot: int, row: int) -> range:
        """The slots of a block that is opened at a row."""
        streams = self.plans[corpus].streams
        return range(block_slot, block_slot + self.slots_at(row) * streams, streams)

    def _most_nbytes(self, corpus: str, slots: range) -> int:
        most = 0
        for number in (self.orders[corpus].resolve(slot)[1] for slot in slots):
            units = self.corpora[corpus].index.units[self.blocks[corpus].units_of(number)]
            most += _PER_TEXT_BYTE * int(units["text_bytes"].sum())
            most += _PER_DOCUMENT * int(units["samples"].sum())
        self.blocks[corpus].release()
        self.corpora[corpus].table.release()
        return most

    def open(self, corpus: str, block_slot: int, builds: Sequence[tuple[int, int]]) -> OpenBlock:
        """The block whose first slot of a corpus this is, after its build history ((row, rows emitted), …);
        the rows of the last build are there, emitted ones included. Raises UnitTrouble."""
        plan = self.plans[corpus]
        (row, emitted), *later = builds
        slots = self._slots(corpus, block_slot, row)
        documents = joined([self._read(plan, slot) for slot in slots], self.encoder.control)
        epoch = self.orders[corpus].resolve(block_slot)[0]
        nothing = np.empty((0, 3), dtype=np.int64)
        built = self._build(plan, block_slot, epoch, documents, nothing, row, bounded=True)
        block = OpenBlock(plan, block_slot, len(slots), epoch, documents, nothing, built)
        for row, following in later:
            self.rebuild(block, emitted, row)
            emitted = following
        width = block.nbytes / self._most_nbytes(corpus, slots)
        self._width[corpus] = max(width, _FADING * self._width.get(corpus, 0.0))
        return block

    def _read(self, plan: CorpusPlan, slot: int) -> Documents:
        """The documents at a slot of a corpus, without the units that the history skips there."""
        epoch, number = self.orders[plan.name].resolve(slot)
        skips = self.plan_segments.history.skips
        skipped = {skip.unit for skip in skips if (skip.corpus, skip.block_slot) == (plan.name, slot)}
        units = [unit for unit in self.blocks[plan.name].units_of(number) if unit not in skipped]
        corpus = self.corpora[plan.name]
        try:
            return read_documents(
                *(corpus, self.encoder, self.seed, plan.name, epoch, units, plan.set_aside),
                cache=self._token_cache,
            )
        except UnitTrouble as trouble:
            raise UnitTrouble(trouble.unit, str(trouble), slot) from trouble

    def rebuild(self, block: OpenBlock, emitted: int, row: int) -> None:
        """Builds a block at another row: what the `emitted` rows of its build, and those of earlier ones,
        have left. With nothing used so far it is a first build."""
        used = np.concatenate([block.used, block.built.rows.table.used(emitted)])
        built = self._build(
            block.corpus, block.block_slot, block.epoch, block.documents, used, row, bounded=True
        )
        block.used, block.built = used, built

    def uncut(self, block: OpenBlock) -> PackedBlock:
        """The rows that the newest build of a block would give without the bound on padding."""
        return self._build(
            block.corpus,
            block.block_slot,
            block.epoch,
            block.documents,
            block.used,
            block.built.row,
            bounded=False,
        ).rows

    def _build(
        self,
        corpus: CorpusPlan,
        block_slot: int,
        epoch: int,
        documents: Documents,
        used: np.ndarray,
        row: int,
        *,
        bounded: bool,
    ) -> BlockRows:
        # "dressing" is part of the key: by another word every row would be another.
        build_key = key(self.seed, "dressing", corpus.name, epoch, block_slot)
        rng_keys = documents.rng_keys
        if len(used):
            build_key = extend(build_key, row)
            rng_keys = extend_all(rng_keys, "row", np.full(len(rng_keys), row))
        plan_segment = self.plan_segments.at(row)
        plan, rests = plan_segment.plan, remainder(documents, used, plan_segment.quarantined(corpus.name))
        builder = ExampleBuilder(
            documents.tokens,
            rests,
            plan_segment.mixture,
            row,
            plan.length,
            self.encoder,
            build_key,
            rng_keys,
        )
        filled = fill_rows(builder, plan.padding if bounded else None)
        order = Rng(build_key, "rows").permutation(len(filled.rows))
        rows = [filled.rows[i] for i in order.tolist()]
        return BlockRows(row, pack(filled.segments, rows, plan.length, corpus.id, filled.cut))


def remainder(documents: Documents, used: np.ndarray, quarantined: Set[str]) -> np.ndarray:
    """int64 [n, 3]: the token intervals (document, start, stop) of a block that no emitted row used, without
    quarantined documents."""
    rests = documents.tokens.whole()
    if len(used):
        # An empty interval at each end of every document turns "what is unused" into the gaps between.
        openings, closings = rests.copy(), rests.copy()
        openings[:, 2], closings[:, 1] = 0, rests[:, 2]
        bounds = np.concatenate([openings, used, closings])
        bounds = bounds[np.lexsort(bounds.T[::-1])]
        gap = (bounds[1:, 0] == bounds[:-1, 0]) & (bounds[1:, 1] > bounds[:-1, 2])
        rests = np.stack([bounds[:-1, 0], bounds[:-1, 2], bounds[1:, 1]], axis=1)[gap]
    if quarantined:
        rests = rests[~documents.named(quarantined)[rests[:, 0]]]
    return rests


def _check(corpus: CorpusPlan, text: Corpus) -> None:
    last = corpus.eras[-1]
    found = text.fingerprint_of(min(last.units, len(text)))
    if len(text) < last.units or found != last.fingerprint:
        raise BadInput(
            f"corpus {corpus.name}: its shards changed, or some are missing or in another order (fingerprint "
            f"{last.fingerprint}, now {found}); shards can only be appended, and an index made anew needs "
            "the --unit-kib that it had"
        )
