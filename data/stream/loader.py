"""The loader of a rank: the steps' batches, in order, for ever.

For each global row n of a step it asks the plan for the corpus, n mod S for the stream, and draws; its own
rows (data/plan/ownership.py) are written into the batch, draws of other ranks' only move the stream on. A
batch carries the state *after itself*: what was prepared ahead but not consumed leaves no trace in a
checkpoint.

With threads = 0 all work is done in the caller. Otherwise `threads` threads open blocks ahead, and one more
assembles the next batches, so that the caller finds them ready (prefetch.py).
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from data.errors import BadInput
from data.plan.ownership import Ownership
from data.plan.plan import History, Plan
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.plan.steps import step_length
from data.shards.corpus import Corpus
from data.stream.block import OpenBlock, Opener
from data.stream.mixing import ShardsOf, StepDraws
from data.stream.packing import PackedBlock, write_rows
from data.stream.prefetch import Prefetcher
from data.stream.reading import Encoder
from data.stream.rows import Rows
from data.stream.skipping import Identity, LeftOut, SkipNotice
from data.stream.streams import Opening, Streams
from data.stream.token_cache import TokenCache
from objectives.registry import OBJECTIVES

READY = 3
"""Batches assembled ahead, the one at work included."""


@dataclass(frozen=True)
class Batch:
    """One step of one rank. rows: padded with blank rows to the same number on every rank, a multiple of the
    micro-batch; numbers: int64, the global row of each, −1 for blank ones; source_tokens: int64 [objectives,
    corpora] of these rows; state: after this batch, of the streams that this rank reports; history: the
    plan's, with all that was skipped up to this batch; skipped: samples and units that this rank left out for
    it, and told of; drawn: from what the step draws, of the streams that this rank reports; cuts: how many
    segments of these rows were cut only to fill rows."""

    first_row: int
    rows_global: int
    rows: Rows
    numbers: np.ndarray
    micro_batches: list[Rows]
    source_tokens: np.ndarray
    state: StreamPositions
    history: History
    skipped: tuple[Identity, ...] = ()
    drawn: StepDraws = field(default_factory=StepDraws)
    cuts: int = 0


@dataclass(frozen=True)
class RowShares:
    """How the rows of a step are shared out, and in what batches: the same arithmetic on every rank."""

    world: int
    """Data-parallel ranks."""
    micro_batch: int

    def owners(self, rows: np.ndarray, lanes: int) -> np.ndarray:
        """int64 [n]: the rank to which each global row belongs."""
        return Ownership(lanes, self.world).owners(rows)

    def height(self, owners: np.ndarray) -> int:
        """Rows in each rank's batch: those of the rank that has most, in whole micro-batches."""
        most = int(np.max(np.bincount(owners, minlength=self.world)))
        return -(-most // self.micro_batch) * self.micro_batch

    def cut(self, rows: Rows) -> list[Rows]:
        """The micro-batches of a batch."""
        return [rows[start : start + self.micro_batch] for start in range(0, len(rows), self.micro_batch)]


def blank_batches(history: History, shares: RowShares, first_row: int) -> Iterator[Batch]:
    """What a rank takes in place of a Loader's batches that needs no rows: as many of the same shape, blank.
    No shard is opened for them. first_row: of a step."""
    plan_segments = PlanSegments(history)
    while True:
        count = step_length(history, first_row)
        plan = plan_segments.at(first_row).plan
        height = shares.height(shares.owners(np.arange(first_row, first_row + count), plan.lanes))
        rows = Rows.blank(height, plan.length, 0)
        yield Batch(
            first_row=first_row,
            rows_global=count,
            rows=rows,
            numbers=np.full(height, -1, dtype=np.int64),
            micro_batches=shares.cut(rows),
            source_tokens=np.zeros((len(OBJECTIVES), len(plan.corpora)), dtype=np.int64),
            state=StreamPositions(),
            history=history,
        )
        first_row += count


class _Closed(Exception):
    """The loader was closed while its thread was at work. Nobody takes that batch."""


class Loader:
    """Iterate over it for Batches; `close` it, or use it in a `with` block."""

    def __init__(
        self,
        history: History,
        corpora: Mapping[str, Corpus],
        encoder: Encoder,
        *,
        rank: int,
        world: int,
        first_row: int,
        state: StreamPositions,
        micro_batch: int,
        threads: int,
        memory_bytes: int,
        log: Callable[[Opening], None] | None = None,
        on_skip: Callable[[SkipNotice], None] | None = None,
        left_out: LeftOut | None = None,
        token_cache: TokenCache | None = None,
    ) -> None:
        """state: where all streams stand at first_row, the first row of a step. memory_bytes: what open
        blocks may hold; those beyond it are opened again when needed. log: called for every opening, before
        its rows are handed over. on_skip: called before a bad sample or an unreadable unit is skipped;
        the record of a unit must be on disk when it returns. left_out: what counts against the budget
        already, and what is added to it. token_cache: from which encoded text is taken, where it is there; it
        changes no row. BadInput for what cannot work."""
        self._plan_segments = PlanSegments(history)
        for name in self._plan_segments.corpora_from(first_row):
            if name not in corpora:
                raise BadInput(f"corpus {name}: is in the plan, but its shards were not opened")
        self._rank, self._shares = rank, RowShares(world, micro_batch)
        self._row = first_row
        self._pad, self._memory_bytes = encoder.control.pad, memory_bytes
        self._closing = threading.Event()
        self._opener = Opener(self._plan_segments, corpora, encoder, token_cache)
        self.shards_of = ShardsOf(self._opener)
        """In how many shards a step's blocks lie."""
        self._blocks: Prefetcher[OpenBlock] = Prefetcher(threads, f"open {rank}")
        self._streams = Streams(
            self._plan_segments,
            self._opener,
            self._blocks,
            state,
            rank=rank,
            world=world,
            memory_bytes=memory_bytes,
            log=log,
            on_skip=on_skip,
            left_out=left_out,
        )
        self._assembled = self._assemble_all(ahead=threads > 0)
        self._batches: Prefetcher[Batch] = Prefetcher(min(threads, 1), f"assemble {rank}")
        self._taken = 0
        for number in range(READY):
            self._ask(number)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closing.is_set():
            raise StopIteration
        number = self._taken
        self._taken += 1
        self._ask(number + READY)
        # One thread assembles in order: a batch that it has not begun is waited for, not made beside it.
        batch = self._batches.take(number, in_turn=True)
        return next(self._assembled) if batch is None else batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; a block that is being opened is finished first."""
        self._closing.set()
        self._batches.close()
        self._blocks.close()

    @property
    def held_bytes(self) -> int:
        """Bytes of open blocks, to about a tenth."""
        return self._streams.held_bytes

    @property
    def openings(self) -> int:
        """Blocks opened so far, also those opened again for want of memory."""
        return self._streams.openings

    def _ask(self, number: int) -> None:
        """Have a batch, counted from the loader's first, assembled by the thread."""
        self._batches.ask(number, number, partial(next, self._assembled))

    def _assemble_all(self, *, ahead: bool) -> Iterator[Batch]:
        """All batches in order, up to an error: nothing is drawn beyond it."""
        if ahead:
            self._streams.start(self._row)
        while True:
            yield self._assemble()

    def _assemble(self) -> Batch:
        """The next step."""
        first = self._row
        count = step_length(self._plan_segments.history, first)
        plan_segment = self._plan_segments.at(first)
        plan = plan_segment.plan
        rows = np.arange(first, first + count)
        corpora = plan_segment.corpus_mix.corpora_of(rows)
        owners = self._shares.owners(rows, plan.lanes)
        mine = owners == self._rank
        height = self._shares.height(owners)
        numbers = np.full(height, -1, dtype=np.int64)
        numbers[: mine.sum()] = rows[mine]
        source_tokens = np.zeros((len(OBJECTIVES), len(plan.corpora)), dtype=np.int64)
        batch, tokens, cuts = self._draw(plan, rows, corpora, mine, height)
        np.add.at(source_tokens.T, corpora[mine], tokens)
        self._row = first + count
        return Batch(
            first_row=first,
            rows_global=count,
            rows=batch,
            numbers=numbers,
            micro_batches=self._shares.cut(batch),
            source_tokens=source_tokens,
            state=self._streams.state(),
            history=self._plan_segments.history,
            skipped=self._streams.take_skipped(),
            drawn=self._streams.take_drawn(),
            cuts=cuts,
        )

    def _draw(
        self, plan: Plan, rows: np.ndarray, corpora: np.ndarray, mine: np.ndarray, height: int
    ) -> tuple[Rows, np.ndarray, int]:
        """Draws rows, those of other ranks too where they move a stream that this one follows. Returns its
        own, in order and padded to `height`; int64 [own, objectives]: their source tokens; and their cuts.

        Until rows are written out their blocks stay in memory, those too that are used up or were dropped:
        so it is done as soon as these hold half of what open blocks may.
        """
        parts: list[Rows] = []
        tokens: list[np.ndarray] = []
        drawn: list[tuple[PackedBlock, int]] = []
        held: set[int] = set()
        room = self._memory_bytes // 2
        cuts = 0

        def write_out(count: int) -> None:
            parts.append(write_rows(drawn, count, plan.length, self._pad))
            tokens.append(np.array([packed.table.tokens[index] for packed, index in drawn], np.int64))
            drawn.clear()
            held.clear()

        for row, corpus_id, own in zip(rows.tolist(), corpora.tolist(), mine.tolist()):
            if self._closing.is_set():
                raise _Closed
            found = self._streams.draw(plan.corpora[corpus_id], row)
            if found and own:
                packed, index = found[0].built.rows, found[1]
                drawn.append((packed, index))
                cuts += int(packed.table.cuts[index])
                if id(packed) not in held:
                    held.add(id(packed))
                    room -= found[0].nbytes
                    if room < 0:
                        write_out(len(drawn))
                        room = self._memory_bytes // 2
        write_out(height - sum(map(len, parts)))
        every = np.concatenate([part.reshape(-1, len(OBJECTIVES)) for part in tokens])
        return Rows.join(parts), every, cuts
