"""Makes the plan of a run from its settings and the corpora that lie there, as the first plan or as an edit.

An edit keeps what the plan in force has fixed: a corpus keeps its id, its streams and its eras; a corpus that
the settings no longer name stays with weight 0, so that its position is kept; shards that were appended open
an era behind the last slot that any stream has reached (data/plan/epochs.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from data.errors import BadInput
from data.plan.asked_rows import AskedRows
from data.plan.block_file import blocks_of
from data.plan.blocks import Blocks
from data.plan.corpus_mix import STREAMS, streams_for
from data.plan.epochs import Era
from data.plan.held_out import held_out_documents
from data.plan.plan import BatchRows, CorpusPlan, Normalise, OnBad, Plan, refuse_change
from data.plan.positions import StreamPositions
from data.shards.corpus import Corpus
from objectives.mixture import Mixture
from objectives.schedule import Schedule


@dataclass(frozen=True)
class CorpusSettings:
    """A corpus as the user asks for it."""

    corpus: Corpus
    weight: Schedule
    held_out: float
    coefficient: float = 1.0


DROPPED = Schedule.parse(0)
"""The weight of a corpus that the settings no longer name."""
LONG_ROWS_BLOCK = 16 << 20
"""Bytes of text: blocks are no larger, unless so few rows would leave much padding."""


def usual_block_bytes(max_length: int) -> int:
    """Bytes of text a block for rows of up to `max_length` positions: among its few hundred rows half a
    row of padding is little, and so is what a block costs whatever its size.

    Long rows get fewer a block, down to 16 or so, for the blocks must be many: a corpus has one stream for
    each 64 of them, and all that are open are held in memory.
    """
    return min(1024 * max_length, max(LONG_ROWS_BLOCK, 64 * max_length))


@dataclass(frozen=True)
class StreamSettings:
    """All that the user can say about the stream; fields as in Plan. block_bytes None: those of the run, and
    of a new one the usual."""

    seed: int
    tokenizer: str
    lanes: int
    length: int
    batch_rows: BatchRows
    corpora: Mapping[str, CorpusSettings]
    mixture: Mixture
    max_length: int
    block_bytes: int | None
    normalise: Normalise
    quarantine: Sequence[tuple[str, str]]
    on_bad: OnBad
    streams: int = STREAMS
    """The most that a corpus which enters may have."""
    padding: float | None = None


def make_plan(
    settings: StreamSettings, before: Plan | None = None, state: StreamPositions | None = None
) -> Plan:
    """The plan that the settings ask for. `before`: the plan that an edit changes (History.before(row));
    `state`: where all streams stand at that row. BadInput for what cannot be edited, or is not there."""
    block_bytes = settings.block_bytes
    if block_bytes is None:
        block_bytes = before.block_bytes if before else usual_block_bytes(settings.max_length)
    if settings.length > settings.max_length:
        raise BadInput(
            f"sequence_length: {settings.length} is above max_sequence_length, {settings.max_length}"
        )
    old = before.corpora if before else ()
    corpora = []
    for corpus in old:
        asked = settings.corpora.get(corpus.name)
        if asked is None:
            corpora.append(replace(corpus, weight=DROPPED))
            continue
        # The last slot that an open block may reach, whichever plan it was opened under.
        reached = (state or StreamPositions()).furthest(corpus.name) + before.reach - 1 if before else 0
        grown = _grown(corpus, asked, settings.seed, block_bytes, reached)
        corpora.append(
            replace(grown, weight=asked.weight, coefficient=asked.coefficient, held_out=asked.held_out)
        )
    known = {corpus.name for corpus in old}
    for name, asked in settings.corpora.items():
        if name not in known:
            corpora.append(_entering(name, len(corpora), asked, settings, block_bytes))
    if len(corpora) > 127:
        raise BadInput(f"data.corpora: {len(corpora)} in this run's history; at most 127 have an id")
    names = [corpus.name for corpus in corpora]
    unknown = [name for name, _ in settings.quarantine if name not in names]
    if unknown:
        raise BadInput(f"quarantine: no corpus {unknown[0]}; there are {', '.join(names)}")
    try:
        AskedRows([corpus.weight for corpus in corpora])
    except ValueError as error:
        raise BadInput(f"data.corpora: {error}") from error
    plan = Plan(
        seed=settings.seed,
        tokenizer=settings.tokenizer,
        lanes=settings.lanes,
        block_bytes=block_bytes,
        max_length=before.max_length if before else settings.max_length,
        length=settings.length,
        batch_rows=settings.batch_rows,
        corpora=tuple(corpora),
        mixture=settings.mixture,
        normalise=settings.normalise,
        quarantine=tuple(sorted((corpus, sample) for corpus, sample in settings.quarantine)),
        on_bad=settings.on_bad,
        streams=settings.streams,
        padding=settings.padding,
    )
    plan = replace(plan, reach=max(plan.slots, before.reach if before else 1))
    if before:
        refuse_change(before, plan)
    return plan


def _entering(
    name: str, number: int, asked: CorpusSettings, settings: StreamSettings, block_bytes: int
) -> CorpusPlan:
    units = len(asked.corpus)
    if not units:
        raise BadInput(f"corpus {name}: its shards hold no text")
    blocks, documents = _set_aside(asked, settings.seed, name, [units], asked.held_out, block_bytes)
    eras = (Era(0, units, len(blocks), asked.corpus.fingerprint_of(units)),)
    streams = streams_for(settings.lanes, len(blocks), settings.streams)
    return CorpusPlan(name, number, asked.weight, asked.held_out, streams, eras, documents, asked.coefficient)


def _grown(
    corpus: CorpusPlan, asked: CorpusSettings, seed: int, block_bytes: int, furthest: int
) -> CorpusPlan:
    """The corpus as its index has it, which may list more shards than its plan."""
    text, last = asked.corpus, corpus.eras[-1]
    same = len(text) >= last.units and text.fingerprint_of(last.units) == last.fingerprint
    if not same or len(text) == last.units:
        return corpus if same else replace(corpus, eras=(Era(0, len(text), 0, text.index.fingerprint),))
    if text.table.shard_border(last.units) != last.units:
        raise BadInput(f"corpus {corpus.name}: its last shard has grown; append text as new shards")
    counts = [*(era.units for era in corpus.eras), len(text)]
    blocks, documents = _set_aside(asked, seed, corpus.name, counts, corpus.held_out, block_bytes)
    era = Era((furthest + 1) * corpus.streams, len(text), len(blocks), text.index.fingerprint)
    return replace(
        corpus,
        eras=(*corpus.eras, era),
        held_out_documents=corpus.held_out_documents + documents,
    )


def _set_aside(
    asked: CorpusSettings, seed: int, name: str, counts: Sequence[int], held_out: float, block_bytes: int
) -> tuple[Blocks, tuple[tuple[int, tuple[int, ...]], ...]]:
    """The blocks of a corpus that enters or grows, and the documents that are held out besides its units."""
    corpus = asked.corpus
    blocks = blocks_of(corpus, seed, name, counts, held_out, block_bytes)
    era_text, sizes_of = blocks.era_text[-1], corpus.text_bytes_of
    return blocks, held_out_documents(
        seed, name, corpus.table, counts, held_out, blocks.held_out, era_text, sizes_of
    )
