"""Runs of the stream for its tests: a plan over packed corpora, and what its loaders emit."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data import index
from data.block import OpenBlock
from data.corpus import Corpus
from data.loader import Batch, Loader
from data.plan import History
from data.planning import CorpusSettings, StreamSettings, make_plan
from data.state import StreamsState
from data.tokenizer import Tokenizer
from tests.helpers import make_corpus

WORDS = "the a of stream row block lane token and shard key plan epoch is never lost or found twice".split()


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
        context.setattr(index, "UNIT_TEXT", unit)
        return make_corpus(folder, name, documents, **options)


def settings(
    tokenizer: Tokenizer, corpora: Mapping[str, Corpus], weights: Mapping[str, float], **changes: Any
) -> StreamSettings:
    """Settings of a small stream: T 64, blocks of 1 000 bytes, 12 lanes, B 17 (which divides nothing)."""
    asked = {name: CorpusSettings(corpora[name].index, weight, 0.02) for name, weight in weights.items()}
    given: dict[str, Any] = {
        "seed": 1,
        "tokenizer": tokenizer.hash,
        "lanes": 12,
        "length": 64,
        "longest": 128,
        "block_bytes": 1_000,
        "batch_rows": 17,
        "objectives": {"causal": {}},
    }
    return StreamSettings(corpora=asked, **{**given, **changes})


def start(asked: StreamSettings) -> History:
    """The history of a run that begins with these settings."""
    return History(((0, make_plan(asked)),))


def edit(history: History, asked: StreamSettings, row: int, state: StreamsState) -> History:
    """The history after an edit at a row."""
    return history.extended(row, make_plan(asked, history.before(row), state))


class Emitted:
    """What the ranks of one attempt emitted: fingerprints by global row, and where it ended."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.states: list[StreamsState] = []
        self.row = 0
        self.heights: set[tuple[int, int]] = set()

    @property
    def state(self) -> StreamsState:
        return StreamsState.merge(self.states)


def run(
    history: History,
    corpora: Mapping[str, Corpus],
    tokenizer: Tokenizer,
    steps: int,
    *,
    world: int = 1,
    threads: int = 0,
    first_row: int = 0,
    state: StreamsState | None = None,
    each: Callable[[int, Batch], None] | None = None,
    micro_batch: int = 3,
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
            state=state or StreamsState(),
            micro_batch=micro_batch,
            threads=threads,
            **options,
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


def intervals(block: OpenBlock, row: int) -> list[tuple[int, int, int, int]]:
    """(unit, number in the unit, start, stop) of the source tokens in a row of a block."""
    table = block.dressing.table
    found = []
    for piece in table.pieces_of(row):
        for span in range(int(table.spans[piece]), int(table.spans[piece + 1])):
            document = int(table.document[span])
            at = int(block.documents.units[document]), int(block.documents.numbers[document])
            found.append((*at, int(table.start[span]), int(table.stop[span])))
    return found
