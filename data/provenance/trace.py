"""What stood in a past row, and in which steps a document was used: from the openings log, without a replay.

The last opening of a row's stream before the row names the block and the build; the draws of the stream in
between, counted by the mix, name the row in it. So a look-up opens one block, at any step of any run.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.errors import BadInput
from data.plan.plan import CorpusPlan, History
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.plan.steps import rows_of_step, step_of_row
from data.shards.corpus import Corpus
from data.shards.find import find_documents
from data.stream.block import OpenBlock, Opener
from data.stream.packing import write_rows
from data.stream.prefetch import Prefetcher
from data.stream.reading import Encoder, UnitTrouble
from data.stream.rows import Rows
from data.stream.streams import Streams
from objectives.registry import NAMES


@dataclass(frozen=True)
class Part:
    """Source tokens [start, stop) of a document; of its part number `part`, where it is a long one."""

    shard: str
    key: str
    start: int
    stop: int
    part: int | None = None


@dataclass(frozen=True)
class TracedSegment:
    """A segment of a row. number: its number among the segments of its document in this build; first: its
    first position; parts: the text that it uses (a false next-sentence pair has two); cut: what follows in
    the text stands elsewhere only so that rows are filled (data/stream/padding.py)."""

    corpus: str
    number: int
    objective: str
    first: int
    length: int
    parts: tuple[Part, ...]
    cut: bool = False


@dataclass(frozen=True)
class TracedRow:
    """A global row: its arrays (Rows of one) and its segments."""

    number: int
    rows: Rows
    segments: tuple[TracedSegment, ...]


@dataclass(frozen=True)
class Use:
    """A document in a row of a step. step: the first of a run is 1."""

    step: int
    row: int
    objective: str


def describe(block: OpenBlock, index: int, corpus: Corpus) -> tuple[TracedSegment, ...]:
    """The segments of a row of an open block."""
    table, documents = block.built.rows.table, block.documents
    heads = table.spans[table.span_ends[:-1]]
    order = np.lexsort((heads[:, 1], heads[:, 0]))
    ordered = heads[order, 0]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)

    def part(document: int, start: int, stop: int) -> Part:
        unit = int(documents.units[document])
        shard, placed = corpus.shards[int(corpus.index.units["shard"][unit])], corpus.index.placed_at(unit)
        number = unit - placed.unit if placed and placed.parts > 1 else None
        return Part(shard, documents.keys[document], start, stop, number)

    return tuple(
        TracedSegment(
            block.corpus.name,
            int(number[segment]),
            NAMES[table.objective[segment]],
            int(table.offset[segment]),
            int(table.length[segment]),
            tuple(part(*span) for span in table.spans_of(segment)),
            bool(table.cut[segment]),
        )
        for segment in table.segments_of(index)
    )


def _laid_out(block: OpenBlock, index: int, encoder: Encoder) -> Rows:
    """A row of an open block."""
    packed = block.built.rows
    return write_rows([(packed, index)], 1, packed.length, encoder.control.pad)


def walk(
    history: History,
    corpora: Mapping[str, Corpus],
    encoder: Encoder,
    step: int,
    start: tuple[int, StreamPositions] = (0, StreamPositions()),
    *,
    only: Container[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[TracedRow]:
    """The rows of a step (the first is 1) that no run has logged: draws from `start` (a row and the state
    there) on.

    Only the streams that these rows draw from are walked, so `only` (global rows: those of the step that are
    wanted) makes it cheaper. progress(rows passed, rows in all)."""
    plan_segments = PlanSegments(history)
    opener = Opener(plan_segments, corpora, encoder)
    row, state = start
    streams = Streams(plan_segments, opener, Prefetcher(0, ""), state, rank=0, world=1, memory_bytes=1 << 30)
    first, count = rows_of_step(history, step)
    wanted = {number for number in range(first, first + count) if only is None or number in only}
    followed = {_stream_of(plan_segments, number) for number in wanted}
    traced = []
    for number in range(row, first + count):
        if _stream_of(plan_segments, number) not in followed:
            continue
        if progress:
            progress(number - row, first + count - row)
        plan = _corpus_of(plan_segments, number)
        found = streams.draw(plan, number)
        if found and number in wanted:
            block, index = found
            rows = _laid_out(block, index, encoder)
            traced.append(TracedRow(number, rows, describe(block, index, corpora[plan.name])))
    return traced


def _corpus_of(plan_segments: PlanSegments, row: int) -> CorpusPlan:
    plan_segment = plan_segments.at(row)
    return plan_segment.plan.corpora[plan_segment.corpus_mix.corpus_of(row)]


def _stream_of(plan_segments: PlanSegments, row: int) -> tuple[int, int]:
    corpus = _corpus_of(plan_segments, row)
    return corpus.id, row % corpus.streams


class Tracer:
    """Looks into the past rows of a run."""

    def __init__(
        self, history: History, corpora: Mapping[str, Corpus], encoder: Encoder, openings: np.ndarray
    ) -> None:
        """openings: data.provenance.openings.merge_openings along the run's lineage."""
        self._history = history
        self._plan_segments = PlanSegments(history)
        self._opener = Opener(self._plan_segments, corpora, encoder)
        self._corpora = corpora
        self._openings = openings

    def step(self, step: int) -> list[TracedRow]:
        """The rows of a step; the first is 1."""
        first, count = rows_of_step(self._history, step)
        return self.rows(range(first, first + count))

    def rows(self, numbers: Iterable[int]) -> list[TracedRow]:
        """Some global rows; blocks that several of them share are opened once."""
        blocks: dict[tuple[int, ...], OpenBlock] = {}
        traced = []
        for number in numbers:
            plan = _corpus_of(self._plan_segments, number)
            records = self._records(plan, number % plan.streams)
            records = records[records["row"] <= number]
            if not len(records):
                raise BadInput(f"row {number}: the run's openings log has nothing for it")
            records = records[records["j"] == records["j"][-1]]
            built_at = int(records["row"][-1])
            index = self._plan_segments.count_draws(plan, number % plan.streams, built_at, number)
            if index >= int(records["rows"][-1]):
                raise BadInput(f"row {number}: the run's openings log ends before it")
            at = plan.id, number % plan.streams, built_at
            if at not in blocks:
                blocks[at] = self._open(plan, records)
            rows = _laid_out(blocks[at], index, self._opener.encoder)
            traced.append(TracedRow(number, rows, describe(blocks[at], index, self._corpora[plan.name])))
        return traced

    def seen(
        self,
        corpus: str,
        keys: Sequence[str],
        end_row: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list[Use]]:
        """Key → the steps before `end_row` (the rows that the run has consumed) in which a document was used.
        BadInput for a key that the corpus does not have."""
        if corpus not in self._corpora:
            raise BadInput(f"corpus {corpus}: is not in the run's plan")
        documents = find_documents(self._corpora[corpus], keys, progress)
        for key, found in documents.items():
            if not found:
                raise BadInput(f"corpus {corpus}: has no sample {key}")
        return {
            key: self.uses(corpus, [place for one in found for place in one.places], end_row)
            for key, found in documents.items()
        }

    def uses(self, corpus: str, documents: Sequence[tuple[int, int]], end_row: int) -> list[Use]:
        """The same for documents of a corpus, each by (unit, number in it)."""
        plan = self._history.at(end_row).corpus(corpus)
        if plan is None:
            raise BadInput(f"corpus {corpus}: is not in the run's plan")
        rows = sorted(use for unit, number in documents for use in self._uses(plan, unit, number, end_row))
        return [Use(step_of_row(self._history, row), row, objective) for row, objective in rows]

    def held_out(self, corpus: str, unit: int, number: int) -> bool:
        """Whether a document was set aside for evaluation, so that no row ever draws from it."""
        set_aside = self._opener.plans[corpus].set_aside
        return number in set_aside.get(unit, ()) or unit in self._opener.blocks[corpus].held_out

    def _uses(self, plan: CorpusPlan, unit: int, number: int, end_row: int) -> Iterable[tuple[int, str]]:
        """(row, objective) of every use of a document."""
        block = self._opener.blocks[plan.name].block_of(unit)
        if block is None:
            return
        mine = self._openings[self._openings["corpus"] == plan.id]
        limit = (int(mine["j"].max(initial=-1)) + self._history.newest.reach) * plan.streams
        slots = self._opener.orders[plan.name].slots_of(block, limit)
        # A block of several slots may have the same text twice: it is looked into once.
        for stream, j in dict.fromkeys(self._opened_with(plan, mine, slot) for slot in slots):
            records = mine[(mine["stream"] == stream) & (mine["j"] == j)]
            for count in range(1, len(records) + 1):
                following = int(records["row"][count]) if count < len(records) else end_row
                opened = self._open(plan, records[:count])
                documents = opened.documents
                at = np.flatnonzero((documents.units == unit) & (documents.numbers == number))
                table = opened.built.rows.table
                spans = np.flatnonzero(np.isin(table.spans[:, 0], at))
                for segment in np.unique(np.searchsorted(table.span_ends, spans, side="right") - 1).tolist():
                    row = self._plan_segments.draw_after(
                        plan, stream, int(records["row"][count - 1]), int(table.row[segment])
                    )
                    if row is not None and row < min(following, end_row):
                        yield row, NAMES[table.objective[segment]]

    def _opened_with(self, plan: CorpusPlan, openings: np.ndarray, slot: int) -> tuple[int, int]:
        """(stream, j) of the block among these openings that has a slot; j −1: none has."""
        j, stream = divmod(slot, plan.streams)
        before = openings[(openings["stream"] == stream) & (openings["j"] <= j)]
        if not len(before):
            return stream, -1
        first = before[before["j"] == before["j"][-1]][0]
        has = j < first["j"] + self._opener.slots_at(int(first["row"]))
        return stream, int(first["j"]) if has else -1

    def _records(self, plan: CorpusPlan, stream: int) -> np.ndarray:
        return self._openings[(self._openings["corpus"] == plan.id) & (self._openings["stream"] == stream)]

    def _open(self, plan: CorpusPlan, records: np.ndarray) -> OpenBlock:
        """A block as it was after the last of its records."""
        stream, j = int(records["stream"][0]), int(records["j"][0])
        rows = [*records["row"].tolist()]
        emitted = [self._plan_segments.count_draws(plan, stream, a, b) for a, b in pairwise(rows)]
        try:
            return self._opener.open(plan.name, stream + j * plan.streams, list(zip(rows, [*emitted, 0])))
        except UnitTrouble as trouble:
            raise BadInput(str(trouble)) from trouble
