"""The token cache: the rows are those of a stream without it, whatever happens to its files."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.access import cache as files
from data.plan.make import StreamSettings
from data.plan.plan import History, OnBad
from data.shards.corpus import Corpus
from data.stream.encoded import EncodedUnits
from data.stream.reading import encode_units
from data.stream.skipping import SkipNotice
from data.stream.token_cache import TokenCache, key_of
from data.tokenization.tokenizer import Tokenizer
from tests.data.test_stream_trouble import asked, foreign
from tests.support.helpers import Corpora, make_corpus
from tests.support.stream_runs import Emitted, run, settings, small_units, start, texts

MIXED = {"causal": {"weight": 2}, "mlm": {}, "nsp": {}, "span": {}}
WEIGHTS = {"a": 0.8, "b": 0.1, "c": 0.1}


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """`a`: about 250 units (three streams); `b`: a long document in parts, between short ones; `c`: two
    units, too large to be held out as a whole."""
    folder = tmp_path_factory.mktemp("small")
    long = "\n".join(texts(20_000, 3))
    with pytest.MonkeyPatch.context() as patch:
        return {
            "a": small_units(patch, folder, "a", texts(3_000, 1), shard_bytes=2_000_000),
            "b": make_corpus(folder, "b", [*texts(40, 2), long, *texts(40, 4)]),
            "c": make_corpus(folder, "c", texts(900, 5)),
        }


@pytest.fixture(scope="module")
def history(small: dict[str, Corpus], tokenizer: Tokenizer) -> History:
    history = start(settings(tokenizer, small, WEIGHTS, objectives=MIXED))
    assert history.at(0).corpora[2].set_aside
    assert (small["b"].table.placed["parts"] > 1).any()
    return history


@pytest.fixture(scope="module")
def straight(history: History, small: dict[str, Corpus], tokenizer: Tokenizer) -> Emitted:
    """60 steps without a cache: more than an epoch of `a`."""
    return run(history, small, tokenizer, 60)


class Told(list[str]):
    """What a cache tells."""

    def cache(self, folder: Path, gib: float = 1.0) -> TokenCache:
        return TokenCache(str(folder), gib, self.append)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("writing-"))


@pytest.mark.parametrize("world, threads", [(1, 0), pytest.param(2, 3, marks=pytest.mark.full), (5, 1)])
def test_rows_are_equal_with_it_on_any_ranks_threads_and_resume(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    tmp_path: Path,
    world: int,
    threads: int,
) -> None:
    told = Told()
    for attempt in range(2):  # the second finds everything
        caches = [told.cache(tmp_path / "tokens") for _ in range(2)]
        half = run(history, small, tokenizer, 25, world=world, threads=threads, token_cache=caches[0])
        rest = run(
            history,
            small,
            tokenizer,
            35,
            world=6 - world,
            threads=threads,
            first_row=half.row,
            state=half.state,
            token_cache=caches[1],
        )
        assert half.rows | rest.rows == straight.rows
        assert rest.state == straight.state
        made, hits = sum(cache.made for cache in caches), sum(cache.hits for cache in caches)
        kept = len(entries(tmp_path / "tokens"))
        assert made <= (4 * threads if attempt else kept), "threads may come further than before"
        assert hits > 20
    assert told == []


def test_a_hit_reads_no_shard(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    run(history, small, tokenizer, 60, token_cache=told.cache(tmp_path))
    monkeypatch.setattr(Corpus, "read_units", lambda *_: pytest.fail("a shard was read"))
    monkeypatch.setattr(Tokenizer, "encode_documents", lambda *_, **__: pytest.fail("text was encoded"))
    assert run(history, small, tokenizer, 60, token_cache=told.cache(tmp_path)).rows == straight.rows
    assert told == []


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


def of_another(path: Path) -> None:
    nothing = np.zeros(0, np.int64)
    other = EncodedUnits([], *(nothing for _ in range(5)), np.ones(1, np.int32), ())
    path.write_bytes(other.to_bytes(b"another's key is"))


def of_another_version(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes([9]) + content[9:])


@pytest.mark.parametrize("harm", [torn, flipped, of_another, of_another_version])
def test_a_file_that_is_not_as_it_was_written_is_noticed_and_made_again(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    tmp_path: Path,
    harm: Callable[[Path], None],
) -> None:
    told = Told()
    run(history, small, tokenizer, 60, token_cache=told.cache(tmp_path))
    before = {path: path.read_bytes() for path in entries(tmp_path)}
    for path in before:
        harm(path)
    again = told.cache(tmp_path)
    assert run(history, small, tokenizer, 60, token_cache=again).rows == straight.rows
    assert again.made == len(before)
    assert {path: path.read_bytes() for path in entries(tmp_path)} == before
    (line,) = told
    assert line.startswith(f"data.token_cache: {tmp_path}/")


def test_the_folder_may_be_deleted_in_mid_run(
    history: History, small: dict[str, Corpus], tokenizer: Tokenizer, straight: Emitted, tmp_path: Path
) -> None:
    folder, told, ended = tmp_path / "tokens", Told(), threading.Event()

    def delete() -> None:
        while not ended.wait(0.003):
            shutil.rmtree(folder, ignore_errors=True)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        emitted = run(history, small, tokenizer, 60, world=2, threads=2, token_cache=told.cache(folder))
    finally:
        ended.set()
        deleting.join()
    assert emitted.rows == straight.rows
    whole = told.cache(folder)
    run(history, small, tokenizer, 60, token_cache=whole)
    assert whole.made > 0
    assert entries(folder)


def test_a_disk_that_cannot_be_written_is_told_of_once(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        cache = told.cache(folder)
        assert run(history, small, tokenizer, 60, threads=2, token_cache=cache).rows == straight.rows
        (line,) = told
        assert line.startswith(f"data.token_cache: {folder}: ")
        told.clear()

    def full(file: object, chunk: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        """A disk with no room for what is in a file."""

        write, flush = full, print

    real = files.written_aside

    def written_aside(*arguments: object, **options: object) -> Iterator[object]:
        with real(*arguments, **options):  # type: ignore[arg-type]
            yield Full()

    monkeypatch.setattr(files, "written_aside", contextmanager(written_aside))
    cache = told.cache(tmp_path / "full")
    assert run(history, small, tokenizer, 60, threads=2, token_cache=cache).rows == straight.rows
    (line,) = told
    assert line.startswith(
        f"data.token_cache: {tmp_path}/full: No space left on device; nothing more is kept"
    )
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.faults
def test_it_keeps_its_bound_with_several_processes(
    history: History, small: dict[str, Corpus], tokenizer: Tokenizer, straight: Emitted, tmp_path: Path
) -> None:
    told = Told()
    run(history, small, tokenizer, 60, token_cache=told.cache(tmp_path / "all"))
    total = sum(path.stat().st_size for path in entries(tmp_path / "all"))
    bound = total / 3
    for rank in range(3):
        cache = told.cache(tmp_path / "some", bound / 2**30)
        assert run(history, small, tokenizer, 60, token_cache=cache).rows == straight.rows
        kept = sum(path.stat().st_size for path in (tmp_path / "some").iterdir())
        assert bound / 2 < kept <= bound, rank
    told.clear()  # the long document alone may be above the bound
    tiny = told.cache(tmp_path / "tiny", 100 / 2**30)
    assert run(history, small, tokenizer, 20, token_cache=tiny).rows.items() <= straight.rows.items()
    assert len(told) == 1
    assert "gib is too little" in told[0]


def test_bad_samples_are_the_same_on_a_hit(tmp_path: Path, tokenizer: Tokenizer) -> None:
    samples = [text.encode() for text in texts(120, 1)]
    samples[7], samples[50], samples[119] = b"caf\xe9", b"", b"\xff\xfea\0"
    bad = foreign(tmp_path, samples)

    def emitted(plan: StreamSettings, *, cached: bool) -> tuple[dict[int, int], list[SkipNotice]]:
        notices: list[SkipNotice] = []
        cache = Told().cache(tmp_path / "tokens") if cached else None
        rows = run(start(plan), {"a": bad}, tokenizer, 40, on_skip=notices.append, token_cache=cache).rows
        return rows, notices

    skip = asked(tokenizer, bad, on_bad=OnBad("skip", 5))
    without = emitted(skip, cached=False)
    assert emitted(skip, cached=True) == emitted(skip, cached=True) == without
    assert len(without[1]) == 3
    lines = []
    for cached in (False, True):
        with pytest.raises(Exception, match="sample") as caught:
            emitted(asked(tokenizer, bad), cached=cached)
        lines.append(str(caught.value))
    assert lines[0] == lines[1]


def test_the_key_tells_apart_what_is_read_otherwise(small: dict[str, Corpus], tokenizer: Tokenizer) -> None:
    a, b = small["a"], small["b"]
    keys = [
        key_of(a, range(4), tokenizer.encoding),
        key_of(a, range(5), tokenizer.encoding),
        key_of(a, [0, 1, 3], tokenizer.encoding),
        key_of(a, range(4), "another"),
        *(key_of(b, [unit], tokenizer.encoding) for unit in range(len(b))),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(a, list(range(4)), tokenizer.encoding) == keys[0]


def test_large_ids_and_empty_units_come_back(small: dict[str, Corpus], tokenizer: Tokenizer) -> None:
    for units in (range(3), range(len(small["b"]))):
        found = encode_units(small["a" if len(units) == 3 else "b"], tokenizer, units, [])
        for change in (0, 1 << 17):
            around = found.around + np.int32(change)
            wide = replace(found, around=around)
            back = EncodedUnits.from_bytes(wide.to_bytes(b"k" * 16), b"k" * 16)
            for name in found.__slots__:
                assert np.array_equal(getattr(back, name), getattr(wide, name)), name
            assert back.around.dtype == np.int32
            assert len(wide.to_bytes(b"k" * 16)) > (4 if change else 2) * len(around)


def _encode(folder: Path, corpus: Corpus, model: Path, log: Path) -> None:
    """A process that reads all units of a corpus by blocks of four, and logs how many it encoded."""
    cache, tokenizer = Told().cache(folder), Tokenizer.load(model)
    for first in range(0, len(corpus) - 3, 4):
        units = range(first, first + 4)
        cache.obtain(
            key_of(corpus, units, tokenizer.encoding),
            4_000,
            lambda units=units: encode_units(corpus, tokenizer, units, []),  # type: ignore[misc]
        )
    log.write_text(str(cache.made))


def _begun(*arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_encode, args=arguments)
    process.start()
    return process


def test_processes_that_read_the_same_encode_it_once(
    small: dict[str, Corpus], corpora: Corpora, tmp_path: Path
) -> None:
    folder, logs = tmp_path / "tokens", [tmp_path / f"{number}" for number in range(3)]
    begun = [_begun(folder, small["a"], corpora.tokenizer_path, log) for log in logs]
    for process in begun:
        process.join(60)
        assert process.exitcode == 0
    made = [int(log.read_text()) for log in logs]
    assert sum(made) == len(entries(folder)) == len(small["a"]) // 4
    assert not list(folder.glob("writing-*"))


@pytest.mark.faults
def test_processes_that_are_killed_leave_nothing_that_harms(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    straight: Emitted,
    corpora: Corpora,
    tmp_path: Path,
) -> None:
    folder, generator = tmp_path / "tokens", random.Random(1)
    for _ in range(25):
        process = _begun(folder, small["a"], corpora.tokenizer_path, tmp_path / "log")
        time.sleep(generator.uniform(0.05, 0.25))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(10)
    told = Told()
    started = time.monotonic()
    for _ in range(2):
        assert (
            run(history, small, tokenizer, 60, threads=1, token_cache=told.cache(folder)).rows
            == straight.rows
        )
    assert told == []
    assert time.monotonic() - started < 60


def test_who_waits_for_one_that_stands_still_goes_on(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    told = Told()
    cache, other = told.cache(tmp_path), told.cache(tmp_path)
    key, units = key_of(small["a"], range(4), tokenizer.encoding), range(4)
    made = encode_units(small["a"], tokenizer, units, [])
    began, release = threading.Event(), threading.Event()

    def stands_still() -> EncodedUnits:
        began.set()
        assert release.wait(30)
        return made

    thread = threading.Thread(target=lambda: cache.obtain(key, 1_000, stands_still))
    thread.start()
    assert began.wait(10)
    start_ = time.monotonic()
    assert other.obtain(key, 1_000, lambda: made) is made
    assert 0.9 < time.monotonic() - start_ < 5
    release.set()
    thread.join()
    assert told.cache(tmp_path).obtain(key, 1_000, lambda: pytest.fail("is there")).keys == made.keys
    assert not list(tmp_path.glob("writing-*"))
    assert told == []
