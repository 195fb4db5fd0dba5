"""Runs of the stream for its tests: a plan over packed corpora, and what its loaders emit."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from data.plan.make import CorpusSettings, StreamSettings, make_plan
from data.plan.plan import History, OnBad
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.shards import units
from data.shards.corpus import Corpus
from data.shards.index import Index, Shard, write
from data.shards.units import UnitTable
from data.stream.block import OpenBlock, Opener
from data.stream.loader import Batch, Loader
from data.stream.prefetch import Prefetcher
from data.stream.reading import read_documents
from data.stream.streams import Opening, Streams
from data.tokenization.tokenizer import Tokenizer
from objectives.mixture import Mixture
from objectives.schedule import Schedule
from tests.support.helpers import make_corpus

WORDS = (
    "the",
    "a",
    "of",
    "stream",
    "row",
    "block",
    "lane",
    "token",
    "shard",
    "key",
    "plan",
    "epoch",
    "never",
)


def texts(count: int, seed: int, longest: int = 60) -> list[str]:
    """Documents of very unequal lengths, no two alike."""
    generator = random.Random(seed)
    return [
        f"{seed}.{number} " + " ".join(generator.choices(WORDS, k=int(1 + longest * generator.random() ** 3)))
        for number in range(count)
    ]


def small_units(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    documents: list[str],
    unit: int = 1_000,
    **options: Any,
) -> Corpus:
    """A packed corpus with units of about `unit` bytes of text, so that little text makes many blocks."""
    with monkeypatch.context() as context:
        context.setattr(units, "UNIT_TEXT", unit)
        return make_corpus(folder, name, documents, **options)


def settings(
    tokenizer: Tokenizer, corpora: Mapping[str, Corpus], weights: Mapping[str, Any], **changes: Any
) -> StreamSettings:
    """Settings of a small stream: T 64, blocks of 1 000 bytes, 12 lanes, B 17 (which divides nothing)."""
    asked = {
        name: CorpusSettings(corpora[name], Schedule.parse(weight), 0.02) for name, weight in weights.items()
    }
    given: dict[str, Any] = {
        "seed": 1,
        "tokenizer": tokenizer.hash,
        "lanes": 12,
        "length": 64,
        "max_length": 128,
        "block_bytes": 1_000,
        "batch_rows": 17,
        "objectives": {"causal": {}},
        "normalise": "global",
        "quarantine": (),
        "on_bad": OnBad(),
        **changes,
    }
    return StreamSettings(corpora=asked, mixture=Mixture.parse(given.pop("objectives")), **given)


def start(asked: StreamSettings) -> History:
    """The history of a run that begins with these settings."""
    return History(((0, make_plan(asked)),))


def edit(history: History, asked: StreamSettings, row: int, state: StreamPositions) -> History:
    """The history after an edit at a row."""
    return history.extended(row, make_plan(asked, history.before(row), state))


class Emitted:
    """What the ranks of one attempt emitted: fingerprints by global row, and where it ended."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.states: list[StreamPositions] = []
        self.row = 0
        self.heights: set[tuple[int, int]] = set()

    @property
    def state(self) -> StreamPositions:
        return StreamPositions.merge(self.states)


def run(
    history: History,
    corpora: Mapping[str, Corpus],
    tokenizer: Tokenizer,
    steps: int,
    *,
    world: int = 1,
    threads: int = 0,
    first_row: int = 0,
    state: StreamPositions | None = None,
    each: Callable[[int, Batch], None] | None = None,
    micro_batch: int = 3,
    logs: Sequence[Callable[[Opening], None]] = (),
    **options: Any,
) -> Emitted:
    """`steps` steps of all ranks, one rank after the other."""
    emitted = Emitted()
    for rank in range(world):
        loader = Loader(
            history,
            corpora,
            tokenizer,
            rank=rank,
            world=world,
            first_row=first_row,
            state=state or StreamPositions(),
            micro_batch=micro_batch,
            threads=threads,
            log=logs[rank] if logs else None,
            **{"memory_bytes": 1 << 30, **options},
        )
        with loader:
            for _ in range(steps):
                batch = next(loader)
                emitted.heights.add((batch.first_row, len(batch.rows)))
                for number, fingerprint in zip(batch.numbers.tolist(), batch.rows.fingerprints()):
                    if number >= 0:
                        assert number not in emitted.rows
                        emitted.rows[number] = fingerprint
                if each:
                    each(rank, batch)
            emitted.states.append(batch.state)
            emitted.row = batch.first_row + batch.rows_global
    return emitted


def joined(folder: Path, name: str, *parts: Corpus) -> Corpus:
    """The shards of several corpora as one corpus, in that order: what appending shards leads to."""
    files: list[Shard] = []
    tables = []
    for part in parts:
        rows = part.table.units.copy()
        rows["shard"] += len(files)
        tables.append(UnitTable(rows, part.table.placed, part.table.names))
        files += [replace(shard, name=url) for url, shard in zip(part.shards, part.index.files)]
    path = folder / f"{name}.index"
    write(path, files, UnitTable.joined(tables))
    return Corpus(name, Index.open(path), [url for part in parts for url in part.shards], parts[0].store)


class Ledger:
    """Which source tokens rows have used, by corpus, epoch and document."""

    def __init__(self) -> None:
        self.used: dict[tuple[str, int, int, int], list[tuple[int, int]]] = defaultdict(list)

    def walk(
        self,
        history: History,
        corpora: Mapping[str, Corpus],
        tokenizer: Tokenizer,
        first: int,
        end: int,
        state: StreamPositions,
    ) -> StreamPositions:
        """Draws the rows [first, end), books what they use, and returns where the streams stand."""
        plan_segments = PlanSegments(history)
        opener = Opener(plan_segments, corpora, tokenizer)
        streams = Streams(
            plan_segments, opener, Prefetcher(0, ""), state, rank=0, world=1, memory_bytes=1 << 30
        )
        for row in range(first, end):
            plan_segment = plan_segments.at(row)
            corpus = plan_segment.plan.corpora[plan_segment.corpus_mix.corpus_of(row)]
            drawn = streams.draw(corpus, row)
            assert drawn
            block, index = drawn
            for unit, number, start, stop in intervals(block, index):
                self.used[corpus.name, block.epoch, unit, number].append((start, stop))
        return streams.state()

    def check(
        self, history: History, corpora: Mapping[str, Corpus], tokenizer: Tokenizer, state: StreamPositions
    ) -> dict[str, int]:
        """Nothing twice; of each epoch that is over, nothing lost. Returns the epochs over, by corpus."""
        for document, used in self.used.items():
            used.sort()
            assert all(a[1] <= b[0] for a, b in pairwise(used)), f"{document} twice: {used}"
        opener = Opener(PlanSegments(history), corpora, tokenizer)
        plan = history.segments[-1][1]
        quarantined = set(plan.quarantine)
        over = {}
        for corpus in plan.corpora:
            order = opener.orders[corpus.name]
            positions = [state.at(corpus.name, stream)[0] for stream in range(corpus.streams)]
            far = (max(positions) + 1) * corpus.streams
            resolved = [order.resolve(place) for place in range(far)]
            open_epochs = {
                resolved[place][0]
                for place in range(far)
                if place // corpus.streams >= positions[place % corpus.streams]
            }
            over[corpus.name] = min(open_epochs)
            for epoch in range(over[corpus.name]):
                blocks = [block for e, block in resolved if e == epoch]
                assert len(blocks) == len(set(blocks))
                units = [unit for block in blocks for unit in opener.blocks[corpus.name].units_of(block)]
                documents = read_documents(
                    corpora[corpus.name], tokenizer, 1, corpus.name, epoch, units, corpus.set_aside
                )
                for i, tokens in enumerate(documents.tokens):
                    at = corpus.name, epoch, int(documents.units[i]), int(documents.numbers[i])
                    covered = sum(stop - start for start, stop in self.used.get(at, []))
                    if (corpus.name, documents.keys[i]) not in quarantined:
                        assert covered == len(tokens), f"{at}: {covered} of {len(tokens)} tokens"
        return over


def intervals(block: OpenBlock, row: int) -> list[tuple[int, int, int, int]]:
    """(unit, number in the unit, start, stop) of the source tokens in a row of a block."""
    table, documents = block.built.rows.table, block.documents
    return [
        (int(documents.units[document]), int(documents.numbers[document]), start, stop)
        for segment in table.segments_of(row)
        for document, start, stop in table.spans_of(segment)
    ]
