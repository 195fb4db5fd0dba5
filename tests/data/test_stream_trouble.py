"""Samples that cannot be used, units that cannot be read: stop, or leave out by policy and on the record."""

import io
import tarfile
from pathlib import Path

import pytest

from data.errors import BadInput
from data.plan.history_file import append_skip, read_history
from data.plan.make import CorpusSettings, StreamSettings
from data.plan.plan import History, OnBad, Skip
from data.plan.positions import StreamPositions
from data.prepare.build_index import build_index
from data.shards import units
from data.shards.corpus import Corpus, open_corpus
from data.stream.loader import Batch, Loader
from data.stream.skipping import SkipNotice
from data.stream.streams import Opening
from data.tokenization.tokenizer import Tokenizer
from objectives.schedule import Schedule
from tests.support.helpers import Corpora
from tests.support.stream_runs import Ledger, run, settings, small_units, start, texts

SKIP = OnBad("skip", 5)


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


def foreign(folder: Path, samples: list[bytes]) -> Corpus:
    """A shard of other people's making, indexed in place, in units of about 500 bytes."""
    with tarfile.open(folder / "a-0.tar", "w") as tar:
        for number, data in enumerate(samples):
            info = tarfile.TarInfo(f"{number:03d}.txt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "UNIT_TEXT", 500)
        build_index([str(folder / "a-0.tar")], folder / "a.index")
    return open_corpus("a", [str(folder / "a-0.tar")], folder / "a.index")


def asked(tokenizer: Tokenizer, corpus: Corpus, **changes: object) -> StreamSettings:
    plain = settings(tokenizer, {"a": corpus}, {"a": 1.0}, **changes)
    return StreamSettings(**{**vars(plain), "corpora": {"a": CorpusSettings(corpus, Schedule.parse(1), 0.0)}})


@pytest.fixture
def bad(tmp_path: Path) -> Corpus:
    """120 documents; 7 is not UTF-8, 50 is empty."""
    samples = [text.encode() for text in texts(120, 1)]
    samples[7], samples[50] = b"caf\xe9", b""
    return foreign(tmp_path, samples)


def test_a_bad_sample_stops_the_run_with_one_line_that_names_it(bad: Corpus, tokenizer: Tokenizer) -> None:
    history = start(asked(tokenizer, bad))
    for threads in (0, 2):
        with pytest.raises(
            BadInput, match=r"corpus a: .*a-0.tar, unit \d+, sample 0(07|50): (not UTF-8|no text)"
        ):
            run(history, {"a": bad}, tokenizer, 40, threads=threads)


def test_bad_samples_are_left_out_within_the_budget_or_by_quarantine(
    bad: Corpus, tokenizer: Tokenizer
) -> None:
    told: list[SkipNotice] = []
    history = start(asked(tokenizer, bad, on_bad=SKIP))
    skipped = run(history, {"a": bad}, tokenizer, 40, on_skip=told.append)
    assert sorted((left.key, left.unit >= 0) for left in told) == [
        ("a-0.tar/007", True),
        ("a-0.tar/050", True),
    ]
    ledger = Ledger()
    state = ledger.walk(history, {"a": bad}, tokenizer, 0, 680, StreamPositions())
    assert ledger.check(history, {"a": bad}, tokenizer, state)["a"] >= 2
    out = start(asked(tokenizer, bad, quarantine=[("a", "a-0.tar/007"), ("a", "050")]))
    assert run(out, {"a": bad}, tokenizer, 40).rows == skipped.rows
    with pytest.raises(BadInput, match=r"budget: 2 samples .* than 1: a/a-0.tar/007, a/a-0.tar/050; .*raise"):
        run(start(asked(tokenizer, bad, on_bad=OnBad("skip", 1))), {"a": bad}, tokenizer, 40)


def test_a_corpus_of_bad_samples_alone_ends(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpus = foreign(tmp_path, [b"\xff\xfe" * 20] * 30)
    history = start(asked(tokenizer, corpus, on_bad=OnBad("skip", 100)))
    with pytest.raises(BadInput, match="no block of it gives a row"):
        run(history, {"a": corpus}, tokenizer, 1)


@pytest.fixture
def broken(tmp_path: Path) -> Corpus:
    """A corpus of which one unit's bytes changed after it was opened."""
    corpus = small_units(pytest.MonkeyPatch(), tmp_path, "a", texts(300, 1), unit=500)
    row = corpus.index.unit(11)
    with open(corpus.shards[0], "r+b") as file:
        file.seek(row.offset + 700)
        file.write(b"#")
    return corpus


def test_a_unit_that_cannot_be_read_stops_the_run(broken: Corpus, tokenizer: Tokenizer) -> None:
    for threads in (0, 2):
        with pytest.raises(BadInput, match="unit 11"):
            run(start(asked(tokenizer, broken)), {"a": broken}, tokenizer, 100, threads=threads)


@pytest.mark.parametrize("threads", [0, 2])
def test_nothing_is_drawn_beyond_an_error(broken: Corpus, tokenizer: Tokenizer, threads: int) -> None:
    """The batches before it are handed out; then the loader ends."""
    log: list[Opening] = []
    loader = Loader(
        start(asked(tokenizer, broken)),
        {"a": broken},
        tokenizer,
        rank=0,
        world=1,
        first_row=0,
        state=StreamPositions(),
        micro_batch=3,
        threads=threads,
        memory_bytes=1 << 30,
        log=log.append,
    )
    with loader:
        rows: list[int] = []
        with pytest.raises(BadInput, match="unit 11"):
            rows.extend(batch.first_row for batch in loader)
        logged = len(log)
        with pytest.raises(StopIteration):
            next(loader)
    assert rows == [17 * number for number in range(len(rows))]
    assert len(log) == logged


@pytest.mark.parametrize("threads", [0, 2])
def test_a_skipped_unit_is_on_the_record_before_it_acts_and_stays_skipped(
    broken: Corpus, tokenizer: Tokenizer, tmp_path: Path, threads: int
) -> None:
    path = tmp_path / "plan.jsonl"
    history = start(asked(tokenizer, broken, on_bad=SKIP))
    history.append_to(path)

    def record(left: SkipNotice) -> None:
        assert left.key is None
        assert "unit 11" in left.problem
        assert left.of_unit == Skip("a", left.block_slot, 11)
        append_skip(path, left.of_unit)

    def carries(_rank: int, batch: Batch) -> None:
        carried.append(batch.history)

    carried: list[History] = []
    options = {"threads": threads, "on_skip": record, "each": carries}
    first = run(history, {"a": broken}, tokenizer, 60, **options)
    recorded = read_history(path)
    assert carried[-1] == recorded, "a checkpoint knows of each skip"
    assert [skip.unit for skip in recorded.skips] == [11] * len(recorded.skips)
    assert recorded.skips
    again = run(recorded, {"a": broken}, tokenizer, 60)
    assert again.rows == first.rows


def test_a_skip_that_others_would_not_know_of_stops_the_run(broken: Corpus, tokenizer: Tokenizer) -> None:
    history = start(asked(tokenizer, broken, on_bad=SKIP))
    with pytest.raises(BadInput, match="several ranks read it"):
        run(history, {"a": broken}, tokenizer, 100, world=2)


def test_what_cannot_work_is_refused_at_once(broken: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    history = start(asked(tokenizer, broken))

    def load(history: History, corpora: dict[str, Corpus]) -> None:
        Loader(
            history,
            corpora,
            tokenizer,
            rank=0,
            world=1,
            first_row=0,
            state=StreamPositions(),
            micro_batch=1,
            threads=0,
            memory_bytes=1 << 30,
        )

    with pytest.raises(BadInput, match="not opened"):
        load(history, {})
    other = small_units(pytest.MonkeyPatch(), tmp_path, "other", texts(300, 2), unit=500)
    with pytest.raises(BadInput, match="fingerprint"):
        load(history, {"a": other})
