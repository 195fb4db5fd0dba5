"""Epochs, small corpora, memory: what a long run must keep."""

import gc
import itertools
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.plan.corpus_mix import streams_for
from data.plan.make import CorpusSettings, StreamSettings
from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus
from data.stream.block import OpenBlock, Opener
from data.stream.loader import Loader
from data.stream.prefetch import Prefetcher
from data.stream.streams import Streams
from data.tokenization.tokenizer import Tokenizer
from tests.support.helpers import Corpora
from tests.support.stream_runs import Ledger, run, settings, small_units, start, texts


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


def make(folder: Path, name: str, documents: int, seed: int, **options: int) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        return small_units(patch, folder, name, texts(documents, seed, **options), unit=500)


def without_held_out(plain: StreamSettings, corpora: dict[str, Corpus]) -> StreamSettings:
    """Every unit in the stream, a block each."""
    asked = {name: CorpusSettings(corpora[name], c.weight, 0.0) for name, c in plain.corpora.items()}
    return StreamSettings(**{**vars(plain), "corpora": asked, "block_bytes": 1})


def alone(history: History, corpora: dict[str, Corpus], tokenizer: Tokenizer, **options: Any) -> Loader:
    """The loader of a single rank, from the first row on where nothing else is said."""
    first: dict[str, Any] = {
        "first_row": 0,
        "state": StreamPositions(),
        "threads": 1,
        "memory_bytes": 1 << 30,
    }
    return Loader(history, corpora, tokenizer, rank=0, world=1, micro_batch=1, **first | options)


def test_one_shard_three_ranks_four_threads_two_epochs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpora = {"a": make(tmp_path, "a", 200, 1)}
    history = start(without_held_out(settings(tokenizer, corpora, {"a": 1.0}), corpora))
    straight = Ledger()
    state, rows = StreamPositions(), 0
    while straight.check(history, corpora, tokenizer, state)["a"] < 2:
        state = straight.walk(history, corpora, tokenizer, rows, rows + 17, state)
        rows += 17
    for epoch in range(2):
        documents = {at[2:] for at in straight.used if at[1] == epoch}
        assert len(documents) == 200
    emitted = run(history, corpora, tokenizer, rows // 17, world=3, threads=4)
    assert emitted.state == state
    assert sorted(emitted.rows) == list(range(rows))


def overlaps(small: Corpus, other: Corpus, tokenizer: Tokenizer, epochs: int, seed: int = 1) -> list[float]:
    """`small` at weight 0.1 under 60 lanes, a block a unit: for each epoch e the share of the segments of
    epoch e+1 that are emitted before the last segment of epoch e."""
    corpora = {"a": other, "small": small}
    plain = settings(tokenizer, corpora, {"a": 0.9, "small": 0.1}, lanes=60, seed=seed)
    history = start(without_held_out(plain, corpora))
    plan = history.newest.corpora[1]
    assert plan.streams == streams_for(60, len(small))
    plan_segments = PlanSegments(history)
    opener = Opener(plan_segments, corpora, tokenizer)
    draws = Streams(
        plan_segments, opener, Prefetcher(0, ""), StreamPositions(), rank=0, world=1, memory_bytes=1 << 30
    )
    order: list[int] = []
    for row in itertools.count():
        if plan_segments.last.corpus_mix.corpus_of(row) == plan.id:
            drawn = draws.draw(plan, row)
            assert drawn
            block, index = drawn
            order += [block.epoch] * len(block.built.rows.table.segments_of(index))
            if block.epoch == epochs + 2:
                break
    places = np.array(order)
    lasts = [int(np.flatnonzero(places == epoch)[-1]) for epoch in range(epochs)]
    return [
        float((places[:last] > epoch).sum() / (places == epoch + 1).sum()) for epoch, last in enumerate(lasts)
    ]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """What the other nine rows in ten come from."""
    return make(tmp_path_factory.mktemp("other"), "a", 200, 1)


def test_epochs_of_one_stream_do_not_overlap(tmp_path: Path, tokenizer: Tokenizer, other: Corpus) -> None:
    small = make(tmp_path, "small", 60, 2)
    assert len(small) == 10
    assert overlaps(small, other, tokenizer, 12) == [0] * 12


def test_neighbouring_epochs_of_a_small_corpus_hardly_overlap(
    tmp_path: Path, tokenizer: Tokenizer, other: Corpus
) -> None:
    """200 units in three streams, the first three epochs."""
    small = make(tmp_path, "small", 1_207, 2)
    assert len(small) == 200
    found = overlaps(small, other, tokenizer, 3)
    assert 0 < max(found) <= 0.05, found


@pytest.mark.full
@pytest.mark.parametrize(("longest", "documents", "epochs"), [(60, 1_207, 30), (600, 252, 3)])
def test_neighbouring_epochs_hardly_overlap_for_ever_and_with_long_documents(
    tmp_path: Path, tokenizer: Tokenizer, other: Corpus, longest: int, documents: int, epochs: int
) -> None:
    small = make(tmp_path, "small", documents, 2, longest=longest)
    found = overlaps(small, other, tokenizer, epochs, seed=2)
    assert max(found) <= 0.05, found


def test_memory_stays_within_its_bytes_and_rows_do_not_depend_on_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """4 000 documents in four streams: with room for two blocks everything is evicted and opened again."""
    corpora = {"a": make(tmp_path, "a", 4_000, 1, longest=30)}
    plain = settings(tokenizer, corpora, {"a": 1.0}, block_bytes=500, length=128)
    history = start(plain)
    assert history.at(0).corpora[0].streams == 4
    plenty = run(history, corpora, tokenizer, 60)
    for threads in (0, 2):
        with alone(history, corpora, tokenizer, threads=threads, memory_bytes=40_000) as loader:
            rows: dict[int, int] = {}
            held = 0
            for _ in range(60):
                batch = next(loader)
                rows |= dict(zip(batch.numbers.tolist(), batch.rows.fingerprints()))
                held = max(held, loader.held_bytes)
            assert rows == plenty.rows
            assert batch.state == plenty.state
            assert held < 60_000
            assert loader.openings > 200


@pytest.mark.parametrize("objective", ["causal", "mlm", "nsp"])
def test_blocks_kept_and_opened_ahead_stay_within_their_bytes(
    tmp_path: Path, tokenizer: Tokenizer, objective: str
) -> None:
    """Counted as they are, at the worst moment: when all that was ordered is done. Of twelve streams there is
    room for the blocks of six (nsp) or of all, and those that come after (causal). The block in use may come
    on top, and blocks differ by a tenth."""
    corpora = {"a": make(tmp_path, "a", 5_000, 1, longest=600)}
    mixture = {objective: {}}
    size = {"block_bytes": 4_000, "length": 512, "max_length": 512}
    history = start(settings(tokenizer, corpora, {"a": 1.0}, lanes=48, objectives=mixture, **size))
    plan_segments, memory = PlanSegments(history), 300_000
    plan = history.newest.corpora[0]
    assert plan.streams == 12
    opener, ahead = Opener(plan_segments, corpora, tokenizer), Prefetcher[OpenBlock](2, "open")
    streams = Streams(plan_segments, opener, ahead, StreamPositions(), rank=0, world=1, memory_bytes=memory)
    streams.start(0)
    most = widest = opened_ahead = 0
    for row in range(300):
        jobs = list(ahead._jobs.values())
        assert all(job.done.wait(60) for job in jobs)
        blocks = [stream.block for stream in streams._streams.values()] + [job.result for job in jobs]
        sizes = [block.nbytes for block in blocks if block]
        most, widest = max(most, sum(sizes)), max([widest, *sizes])
        opened_ahead = max(opened_ahead, len(jobs))
        assert streams.draw(plan, row)
    ahead.close()
    assert memory / 2 < most < 1.1 * memory + widest, most
    assert opened_ahead > 3


def test_a_step_of_many_rows_keeps_no_block_that_was_dropped_within_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Four streams take turns and there is room for two blocks: every row opens its block again. A step of
    400 rows is 1.1 MB; its blocks together would be several more."""
    corpora = {"a": make(tmp_path, "a", 4_000, 1, longest=30)}
    history = start(settings(tokenizer, corpora, {"a": 1.0}, block_bytes=500, batch_rows=400, length=128))
    with alone(history, corpora, tokenizer, threads=0, memory_bytes=15_000) as loader:
        next(loader)
        tracemalloc.start()
        next(loader)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert loader.openings > 700
    assert peak < 4_000_000, peak


def test_a_long_run_keeps_no_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Ten epochs later as many objects are alive as after one."""
    corpora = {"a": make(tmp_path, "a", 500, 1, longest=20)}
    history = start(settings(tokenizer, corpora, {"a": 1.0}, length=128))
    with alone(history, corpora, tokenizer, threads=1) as loader:
        counts = []
        for _ in range(3):
            for _ in range(30):
                next(loader)
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[2] < counts[1] + 3_000


def test_closing_ends_all_threads_at_any_moment(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpora = {"a": make(tmp_path, "a", 500, 1)}
    history = start(settings(tokenizer, corpora, {"a": 1.0}))
    before = threading.active_count()
    for steps in (0, 1, 7):
        loader = alone(history, corpora, tokenizer, threads=3)
        for _ in range(steps):
            next(loader)
        loader.close()
        assert threading.active_count() == before
        with pytest.raises(StopIteration):
            next(loader)


def test_the_cost_of_a_resume_does_not_grow_with_the_step(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A state of step 10⁷, made by arithmetic: as many blocks are opened for the first batch as at the
    start, and the state is as small."""
    corpora = {"a": make(tmp_path, "a", 4_000, 1)}
    history = start(settings(tokenizer, corpora, {"a": 1.0}, block_bytes=500))
    streams = history.at(0).corpora[0].streams
    opened = []
    for row in (0, 17 * 10**7):
        far = {("a", stream): (row // (3 * streams), ((row - 1, 1),)) for stream in range(streams)}
        state = StreamPositions(far) if row else StreamPositions()
        with alone(history, corpora, tokenizer, first_row=row, state=state, threads=0) as loader:
            assert next(loader).first_row == row
            opened.append(loader.openings)
    assert abs(opened[1] - opened[0]) <= streams
