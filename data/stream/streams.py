"""The streams that a rank follows: each draw takes the next row of one stream's open block.

Every rank that follows a stream walks all of the stream's draws, its own and the others', so all such ranks
agree on its position without a word between them. What a draw does is decided by (position,
row, plan's history) alone: open the next block, build the open one anew (data/plan/segments.py), pass over a
block that gives no row. Whether a block was opened ahead by a thread, kept, or dropped for want of memory and
opened again changes nothing but time.

Opening ahead goes by need: for the stream whose block ends first, at the row at which it will, which the
mix of the corpora tells (data/plan/corpus_mix.py).
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from data.errors import BadInput
from data.plan.ownership import Ownership
from data.plan.plan import CorpusPlan
from data.plan.positions import START, Position, StreamPositions
from data.plan.segments import PlanSegment, PlanSegments
from data.stream.block import OpenBlock, Opener
from data.stream.mixing import StepDraws, Tally
from data.stream.prefetch import Prefetcher
from data.stream.reading import UnitTrouble
from data.stream.skipping import Identity, LeftOut, SkipNotice, Skipping


class Opening(NamedTuple):
    """A block was opened or built anew at a global row, and gave rows. corpus: its id; j: the number of its
    first slot in its stream; build: 0 for the first; rows: how many."""

    corpus: int
    stream: int
    j: int
    row: int
    build: int
    rows: int


class _Stream:
    """One stream and its open block, if it is in memory."""

    __slots__ = ("block", "builds", "checked", "j", "noted", "number", "plan", "reported", "shared")

    def __init__(
        self, plan: CorpusPlan, number: int, position: Position, reported: bool, shared: bool
    ) -> None:
        self.plan, self.number = plan, number
        self.j, builds = position
        self.builds = list(builds)
        self.noted = self.builds[-1][1] if builds else 0  # rows of the newest build that are in the tally
        self.reported, self.shared = reported, shared
        self.block: OpenBlock | None = None
        self.checked: PlanSegment | None = None

    @property
    def block_slot(self) -> int:
        return self.number + self.j * self.plan.streams

    @property
    def unit_needed_by(self) -> str | None:
        """What depends on the units of the block already, so that none may be skipped; None where nothing
        does."""
        if self.shared:
            return "several ranks read it"
        return "rows of its block were used already" if self.builds else None

    @property
    def position(self) -> Position:
        return self.j, tuple(self.builds)


class Streams:
    """All streams that one rank follows."""

    def __init__(
        self,
        plan_segments: PlanSegments,
        opener: Opener,
        prefetcher: Prefetcher[OpenBlock],
        state: StreamPositions,
        *,
        rank: int,
        world: int,
        memory_bytes: int,
        log: Callable[[Opening], None] | None = None,
        on_skip: Callable[[SkipNotice], None] | None = None,
        left_out: LeftOut | None = None,
    ) -> None:
        self._plan_segments, self._opener, self._prefetcher = plan_segments, opener, prefetcher
        self._memory, self._log = memory_bytes, log
        self._skipping = Skipping(plan_segments, opener.corpora, on_skip, left_out or LeftOut())
        self._tally = Tally(plan_segments.last.plan.corpora)
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._kept: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._held = self._pending_bytes = 0
        self._pending: dict[tuple[int, int, int], int] = {}
        self._wanted: list[tuple[int, int, int, int]] = []
        self.openings = 0
        """Blocks opened so far, those opened again for want of memory included."""
        plan = plan_segments.last.plan
        ownership = Ownership(plan.lanes, world)
        for corpus in plan.corpora:
            for number in ownership.streams_of(rank, corpus.streams):
                ranks = ownership.followers(number, corpus.streams)
                position = state.at(corpus.name, number)
                stream = _Stream(corpus, number, position, ranks[0] == rank, len(ranks) > 1)
                self._streams[corpus.id, number] = stream

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks in memory, those on order included."""
        return self._held + self._pending_bytes

    def state(self) -> StreamPositions:
        """The positions of the streams that this rank reports: each stream's lowest follower does."""
        return StreamPositions(
            {
                (stream.plan.name, stream.number): stream.position
                for stream in self._streams.values()
                if stream.reported and stream.position != START
            }
        )

    def take_skipped(self) -> tuple[Identity, ...]:
        """The samples and units that this rank has left out, and told of, since the last call."""
        return self._skipping.take_told()

    def take_drawn(self) -> StepDraws:
        """What was drawn since the last call, from the streams that this rank reports."""
        for at in self._kept:
            self._note(self._streams[at])
        return self._tally.take()

    def start(self, row: int) -> None:
        """Has the blocks that rows from `row` on need opened by the threads, the first needed first."""
        for (corpus, number), stream in self._streams.items():
            need = self._plan_segments.draw_after(stream.plan, number, row, 0)
            if need is not None:
                heapq.heappush(self._wanted, (need, corpus, number, stream.j))
        self._order_ahead()

    def draw(self, corpus: CorpusPlan, row: int) -> tuple[OpenBlock, int] | None:
        """Draws a global row from its stream: (block, index of the row in its build); None where this rank
        does not follow that stream."""
        at = corpus.id, row % corpus.streams
        stream = self._streams.get(at)
        if stream is None:
            return None
        plan_segment = self._plan_segments.at(row)
        passed = 0
        while True:
            block = stream.block
            if block is None or stream.checked is not plan_segment or plan_segment.moves:
                block = self._current(stream, plan_segment, row)
            built_at, emitted = stream.builds[-1]
            rows = len(block.built.rows)
            if emitted < rows:
                break
            self._finish(stream)
            passed += 1
            if passed > stream.plan.eras[-1].blocks:
                raise BadInput(
                    f"corpus {stream.plan.name}: no block of it gives a row: all its documents are empty, "
                    "bad or quarantined; take it out of data.corpora, or lift the quarantine"
                )
        stream.builds[-1] = built_at, emitted + 1
        if emitted + 1 == rows:
            self._finish(stream)
        else:
            self._kept.move_to_end(at)
        return block, emitted

    def _current(self, stream: _Stream, plan_segment: PlanSegment, row: int) -> OpenBlock:
        """The open block of a stream, with the build that holds at `row`, which lies in `plan_segment`."""
        if not stream.builds:
            opened = self._obtain(stream, row)
            if opened.built.row != row:
                self._opener.rebuild(opened, 0, row)
            self._skipping.samples(opened, row, tell=stream.reported)
            self._begin(stream, opened, row)
        elif stream.block is None:
            self._keep(stream, self._obtain(stream, row))
        assert stream.block is not None
        block = stream.block
        if self._outdated(stream, block, plan_segment, row):
            self._note(stream)
            self._opener.rebuild(block, stream.builds[-1][1], row)
            self._begin(stream, block, row)
        stream.checked = plan_segment
        return block

    def _outdated(self, stream: _Stream, block: OpenBlock, plan_segment: PlanSegment, row: int) -> bool:
        """The remainder rule. Within a segment only a schedule can move."""
        built_at = block.built.row
        if built_at == row:
            return False
        built = self._plan_segments.at(built_at)
        if plan_segment.outdates(row, built, built_at):
            return True
        name = stream.plan.name
        changed = plan_segment.quarantined(name) ^ built.quarantined(name)
        return bool(changed) and bool(block.documents.named(changed).any())

    def _begin(self, stream: _Stream, block: OpenBlock, row: int) -> None:
        """A new build: on the record, and in the log where it gave rows."""
        stream.builds.append((row, 0))
        stream.noted = 0
        self._keep(stream, block)
        rows = len(block.built.rows)
        if rows and stream.reported and self._log:
            build = len(stream.builds) - 1
            self._log(Opening(stream.plan.id, stream.number, stream.j, row, build, rows))

    def _note(self, stream: _Stream) -> None:
        """The rows drawn of the open block since it was last noted, while it is in memory."""
        emitted = stream.builds[-1][1] if stream.builds else 0
        if stream.reported and stream.block is not None and emitted > stream.noted:
            documents = stream.block.built.rows.table.documents(stream.noted, emitted)
            origin = stream.block.documents.tokens.origin
            self._tally.add(stream.plan.id, stream.number, stream.j, stream.block.slots, origin[documents])
            stream.noted = emitted

    def _finish(self, stream: _Stream) -> None:
        self._drop(stream)
        stream.j = self._next_j(stream)
        stream.builds = []
        self._order_ahead()

    def _next_j(self, stream: _Stream) -> int:
        """That of the block behind the open one, which may have several slots."""
        return stream.j + self._opener.slots_at(stream.builds[0][0])

    # Memory and work ahead: nothing below changes what is drawn.

    def _keep(self, stream: _Stream, block: OpenBlock) -> None:
        at = stream.plan.id, stream.number
        size = block.nbytes
        self._held += size - self._kept.pop(at, 0)
        self._kept[at] = size
        stream.block = block
        while self.held_bytes > self._memory and len(self._kept) > 1:
            self._drop(self._streams[next(iter(self._kept))])
        build = block.built
        need = self._plan_segments.draw_after(stream.plan, stream.number, build.row, len(build.rows))
        if need is not None:
            heapq.heappush(self._wanted, (need, *at, self._next_j(stream)))
        self._order_ahead()

    def _drop(self, stream: _Stream) -> None:
        self._note(stream)
        self._held -= self._kept.pop((stream.plan.id, stream.number))
        stream.block = stream.checked = None

    def _order_ahead(self) -> None:
        """Orders the next blocks of the streams whose blocks end first, as far as the memory allows."""
        while self._wanted:
            need, corpus, number, j = self._wanted[0]
            stream = self._streams[corpus, number]
            block_slot = number + j * stream.plan.streams
            stale = j < stream.j or (corpus, number, j) in self._pending or (j == stream.j and stream.block)
            if not stale:
                size = self._opener.expected_nbytes(stream.plan.name, block_slot, need)
                if self.held_bytes + size > self._memory:
                    return
                self._pending[corpus, number, j] = size
                self._pending_bytes += size
                builds = stream.builds if j == stream.j and stream.builds else [(need, 0)]
                self._order(stream.plan.name, block_slot, tuple(builds), (corpus, number, j), need)
            heapq.heappop(self._wanted)

    def _order(
        self,
        name: str,
        block_slot: int,
        builds: tuple[tuple[int, int], ...],
        key: tuple[int, int, int],
        need: int,
    ) -> None:
        self._prefetcher.ask(key, need, lambda: self._opener.open(name, block_slot, builds))

    def _obtain(self, stream: _Stream, row: int) -> OpenBlock:
        """The block at the stream's slot: from the threads, or opened here."""
        key = stream.plan.id, stream.number, stream.j
        builds = stream.builds or [(row, 0)]
        while True:
            self._pending_bytes -= self._pending.pop(key, 0)
            self.openings += 1
            try:
                block = self._prefetcher.take(key)
                if block and block.slots == self._opener.slots_at(builds[0][0]):
                    return block  # else it was ordered for a row of another plan
                return self._opener.open(stream.plan.name, stream.block_slot, builds)
            except UnitTrouble as trouble:
                obstacle = stream.unit_needed_by
                self._skipping.unit(stream.plan.name, trouble.block_slot, trouble, row, obstacle)
