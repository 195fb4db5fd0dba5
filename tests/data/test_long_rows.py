"""T beyond the longest planned, and back: several slots of a stream are opened as one block."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.plan.plan import History, OnBad, Skip
from data.plan.positions import StreamPositions
from data.provenance.openings import RECORD, merge_openings
from data.provenance.trace import Tracer
from data.shards.corpus import Corpus
from data.stream.rows import Rows
from data.stream.skipping import SkipNotice
from data.stream.streams import Opening
from tests.data.test_stream_tokens import ALL, NUMBERS, OUT, Counts, asked, documents, numbered, passed
from tests.support.stream_runs import edit, joined, run, settings, small_units, start

PLANNED = 128
"""The longest T: that of `settings`."""


@dataclass(frozen=True)
class Run:
    """A run of several attempts, T from 32 to 1000, with shards appended while blocks of several slots are
    open."""

    corpora: dict[str, Corpus]
    history: History
    rows: dict[int, int]
    state: StreamPositions
    openings: np.ndarray
    steps: int


def long(length: int, **changes: Any) -> dict[str, Any]:
    return {"length": length, "max_length": max(length, PLANNED), "batch_rows": 7, **changes}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Attempts of `first` corpora, then of appended ones; the rows of each, counted."""
    folder = tmp_path_factory.mktemp("long")
    first = {"a": numbered(folder, "a", 10_000, 800), "b": numbered(folder, "b", 30_000, 100)}
    more = {"a": numbered(folder, "more_a", 38_000, 100), "b": numbered(folder, "more_b", 42_000, 60)}
    (folder / "joined").mkdir()
    later = {name: joined(folder / "joined", name, first[name], more[name]) for name in first}
    attempts: list[tuple[dict[str, Corpus], int, dict[str, Any]]] = [
        (first, 4, {"length": 32}),
        (first, 3, long(512)),
        (later, 2, long(512)),
        (later, 3, long(300, padding=0.01)),
        (later, 4, long(64, padding=0.01)),
        (later, 2, long(1000, padding=0.01)),
        (later, 4, long(64, quarantine=OUT)),
        (later, 24, {"length": 32, "quarantine": OUT}),
    ]
    counts, rows, logs, steps = Counts(), {}, [], 0
    history, row, state = None, 0, StreamPositions()
    for corpora, count, changes in attempts:
        wanted = asked(corpora, {"a": 0.7, "b": 0.3}, objectives=ALL, **changes)
        history = edit(history, wanted, row, state) if history else start(wanted)
        log: list[Opening] = []
        ran = run(
            history, corpora, NUMBERS, count, first_row=row, state=state, each=counts.add, logs=[log.append]
        )
        logs.append((row, [records(log)]))
        rows |= ran.rows
        row, state, steps = ran.row, ran.state, steps + count
    assert history
    assert [plan.slots for _, plan in history.segments] == [1, 4, 4, 3, 1, 8, 1, 1]
    assert history.newest.reach == 8
    assert [len(corpus.eras) for corpus in history.newest.corpora] == [2, 2]
    least, most = passed(history, later, state)
    used = np.concatenate([ids for place, ids in documents(later) if place not in set(OUT)])
    assert (least[used] <= counts.ids[used]).all(), "lost"
    assert (counts.ids <= most).all(), "twice"
    assert least[used].min() >= 1, "less than an epoch"
    return Run(later, history, rows, state, merge_openings(logs), steps)


def records(log: list[Opening]) -> np.ndarray:
    """As they stand in the log."""
    return np.array([tuple(getattr(one, name) for name in RECORD.names or ()) for one in log], RECORD)


@pytest.mark.parametrize("world, threads, memory_bytes", [(1, 2, 200_000), (3, 1, 1 << 30)])
def test_rows_do_not_depend_on_how_the_run_was_cut_up(
    edited: Run, world: int, threads: int, memory_bytes: int
) -> None:
    options = {"world": world, "threads": threads, "memory_bytes": memory_bytes}
    straight = run(edited.history, edited.corpora, NUMBERS, edited.steps, **options)
    assert straight.rows == edited.rows
    assert straight.state == edited.state


def test_past_rows_and_uses_are_found(edited: Run) -> None:
    """Also of blocks that have the text of several slots, of two epochs among them."""
    tracer = Tracer(edited.history, edited.corpora, NUMBERS, edited.openings)
    rows = tracer.rows(range(len(edited.rows)))
    assert {row.number: row.rows.fingerprints()[0] for row in rows} == edited.rows
    uses: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        for segment in row.segments:
            for part in segment.parts:
                if segment.corpus == "b":
                    uses[part.key] += [row.number]
    keys = sorted(uses)[::9]
    seen = tracer.seen("b", keys, len(edited.rows))
    assert {key: {use.row for use in seen[key]} for key in keys} == {key: {*uses[key]} for key in keys}


def test_a_block_of_long_rows_has_as_many_as_were_planned(tmp_path: Path) -> None:
    """Not a few, the last of which is empty for the most part."""
    corpus = numbered(tmp_path, "a", 10_000, 2_000)

    def padding(length: int, planned: int) -> float:
        plain = asked({"a": corpus}, {"a": 1.0}, max_length=planned, length=planned, block_bytes=6_000)
        history = start(plain)
        longer = asked({"a": corpus}, {"a": 1.0}, **long(length), block_bytes=6_000)
        history = edit(history, longer, 37, StreamPositions())
        seen: list[Rows] = []
        run(history, {"a": corpus}, NUMBERS, 9, first_row=37, each=lambda _, batch: seen.append(batch.rows))
        every = Rows.join(seen[2:]).corpus
        return float((every[every[:, 0] >= 0] < 0).mean())

    assert padding(1024, 256) < 0.5 * padding(1024, 1024)


def test_a_unit_is_skipped_at_its_own_slot(tmp_path: Path) -> None:
    """Of the slots that are opened together: there alone, whichever is read when."""
    with pytest.MonkeyPatch.context() as patch:
        corpus = small_units(patch, tmp_path, "a", [" ".join(["10000"] * 60)] * 200, unit=500)
    bad = corpus.index.unit(7)
    with open(corpus.shards[0], "r+b") as file:
        file.seek(bad.offset + 700)
        file.write(b"#")
    plain = settings(NUMBERS, {"a": corpus}, {"a": 1.0}, length=128, on_bad=OnBad("skip", 5))
    history = start(plain)
    changes: dict[str, Any] = long(512, on_bad=OnBad("skip", 5))
    history = edit(history, settings(NUMBERS, {"a": corpus}, {"a": 1.0}, **changes), 17, StreamPositions())
    told: list[SkipNotice] = []
    ran = run(history, {"a": corpus}, NUMBERS, 30, first_row=17, on_skip=told.append)
    again = run(history, {"a": corpus}, NUMBERS, 30, first_row=17, threads=2, on_skip=lambda _: None)
    assert ran.rows == again.rows
    skips = [skip for skip in (notice.of_unit for notice in told) if skip]
    assert len({skip.block_slot for skip in skips}) >= 2, "once an epoch"
    assert all(skip == Skip("a", skip.block_slot, 7) for skip in skips)
    known = history
    for skip in skips:
        known = known.with_skip(skip)
    assert run(known, {"a": corpus}, NUMBERS, 30, first_row=17).rows == ran.rows
