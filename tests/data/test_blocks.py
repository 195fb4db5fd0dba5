"""Blocks and held-out units worked out in pieces, and kept in a file, are those worked out at once."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.access.cache import CacheOptions
from data.access.patience import Patience
from data.plan import block_file, blocks, held_out
from data.plan.block_file import blocks_of
from data.plan.blocks import Blocks, make_blocks
from data.shards import corpus as corpora
from data.shards.corpus import Corpus
from data.shards.index import Index, Shard, write
from data.shards.store import Store
from data.shards.units import PLACED, UNITS, UnitTable
from data.stream import held_out as evaluation
from objectives.rng import Rng
from tests.support.plain_blocks import PlainBlocks, first_parts, largest_first


def table_of(seed: int, shards: int, kind: str) -> UnitTable:
    """Units of some shards: `even` ones, `wild` ones (empty and huge among them), `books` of many parts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, shards)
    units = np.zeros(counts.sum(), UNITS)
    units["shard"] = np.repeat(np.arange(shards) * 2, counts)  # some shards have no units
    units["samples"] = rng.integers(1, 3, len(units))
    sizes = {
        "even": rng.integers(60, 70, len(units)),
        "wild": (rng.lognormal(3, 2, len(units)) * (rng.random(len(units)) > 0.1)).astype(np.int64),
        "books": rng.integers(1, 100, len(units)),
    }
    units["text_bytes"] = sizes[kind]
    placed = []
    if kind == "books":
        at = 0
        for count in counts.tolist():
            end = at + count
            while at < end:
                parts = min(int(rng.integers(1, 9)), end - at)
                if rng.random() < 0.6:
                    placed.append((at, parts, 0, 0, 0))
                    units["samples"][at] = 1
                    units["samples"][at + 1 : at + parts] = 0
                at += parts
    return UnitTable(units, np.array(placed, PLACED))


def same(found: Blocks, plain: PlainBlocks, counts: Sequence[int], table: UnitTable) -> None:
    assert np.array_equal(found.held_out, plain.held_out)
    assert [found.units_of(block) for block in range(len(found))] == [
        plain.units_of(block) for block in range(len(plain))
    ]
    assert np.array_equal(found.text_bytes, plain.text_bytes)
    some = range(0, counts[-1], 7)
    assert [found.block_of(unit) for unit in some] == [plain.block_of(unit) for unit in some]
    assert [found.count(units) for units in counts] == [plain.count(units) for units in counts]
    for count, ranked, text, first in zip(counts, found.ranked, found.era_text, [0, *counts]):
        assert np.array_equal(ranked, largest_first(plain.text_bytes[: plain.count(count)]))
        aside = plain.held_out[(plain.held_out >= first) & (plain.held_out < count)]
        sizes = table.units["text_bytes"]
        assert text == (int(sizes[first:count].sum()), int(sizes[aside].sum()))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["even", "wild", "books"])
def test_pieces_come_to_what_all_at_once_comes_to(
    kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where too few draws were kept at first, over several eras, and with shards larger than a piece."""
    monkeypatch.setattr(blocks, "_PIECE", 100)
    monkeypatch.setattr(held_out, "_PIECE", 70)
    monkeypatch.setattr(held_out, "_FEW", 64)
    monkeypatch.setattr(evaluation, "_PIECE", 50)
    monkeypatch.setattr(evaluation, "_FIRST", 3)
    for seed in range(4):
        table = table_of(seed, 120, kind)
        borders = np.flatnonzero(np.diff(table.units["shard"], append=10**6)) + 1
        for eras in ([119], [60, 119], [3, 4, 80, 119]):
            counts = borders[eras].tolist()
            found = make_blocks(seed, "a", table, counts, share, 300)
            plain = PlainBlocks(seed, "a", table, counts, share, 300)
            same(found, plain, counts, table)
            assert bool(share) == bool(len(found.held_out))
            some = np.unique(np.random.default_rng(seed).integers(0, counts[-1], 5))
            order = list(evaluation._drawn(Rng(seed), table, found, some))
            begins = plain.held_out[first_parts(table, counts[-1])[plain.held_out] == plain.held_out]
            all_of_them = np.union1d(begins, some)
            assert order == all_of_them[Rng(seed).bits(counts[-1])[all_of_them].argsort()].tolist()


def test_few_draws_are_kept_and_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_FEW", 64)
    kept = []
    whole = held_out._drawn
    monkeypatch.setattr(held_out, "_drawn", lambda *given: kept.append(whole(*given)) or kept[-1])
    table = table_of(1, 4000, "even")
    make_blocks(1, "a", table, [len(table)], 0.02, 300)
    assert len(kept) == 1
    assert len(kept[0][0]) < 0.1 * len(table)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus that counts as large."""
    monkeypatch.setattr(corpora, "LARGE", 100)
    monkeypatch.setattr(block_file, "LARGE", 100)
    return opened(tmp_path, table_of(5, 60, "books"))


def opened(folder: Path, table: UnitTable, told: list[str] | None = None, cache: str = "cache") -> Corpus:
    path = folder / "a.index"
    write(path, [Shard(f"{n}.tar", 1, 1, "plain") for n in range(120)], table)
    said = told if told is not None else []
    store = Store(CacheOptions(str(folder / cache)), Patience(tell=said.append))
    return Corpus("a", Index.open(path), [f"{n}.tar" for n in range(120)], store)


def kept_file(corpus: Corpus) -> Path:
    (path,) = (path for path in corpus.store.cache.folder.iterdir() if path.read_bytes()[:8] == b"HRBLOCKS")
    return path


def test_the_file_is_made_once_and_found(
    large: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [int(large.table.shard_border(300)), len(large)]
    first = blocks_of(large, 1, "a", counts, 0.1, 300)
    assert blocks_of(large, 1, "a", counts, 0.1, 300) is first
    same(first, PlainBlocks(1, "a", large.table, counts, 0.1, 300), counts, large.table)
    assert not first.ends.flags.owndata  # mapped

    def never(*_: object) -> Blocks:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(block_file, "make_blocks", never)
        again = blocks_of(opened(tmp_path, large.table), 1, "a", counts, 0.1, 300)
        same(again, PlainBlocks(1, "a", large.table, counts, 0.1, 300), counts, large.table)
    others = [(2, "a", 0.1, 300), (1, "b", 0.1, 300), (1, "a", 0.11, 300), (1, "a", 0.1, 301)]
    for seed, name, share, block_bytes in others:
        found = blocks_of(opened(tmp_path, large.table), seed, name, counts, share, block_bytes)
        same(found, PlainBlocks(seed, name, large.table, counts, share, block_bytes), counts, large.table)


def torn(content: bytes) -> bytes:
    return content[: len(content) // 2]


def longer(content: bytes) -> bytes:
    return content + b"\0"


def flipped_end(content: bytes) -> bytes:
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


def flipped_header(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 1]) + content[61:]


def huge_header(content: bytes) -> bytes:
    return content[:8] + b"\xff" * 8 + content[16:]


def foreign(content: bytes) -> bytes:
    """Whole, but of another corpus: a name that two keys share."""
    size = int.from_bytes(content[8:16], "little")
    header = json.loads(content[24 : 24 + size])
    header["key"] = "another"
    text = json.dumps(header).encode().ljust(size)
    assert len(text) == size
    return content[:16] + block_file.xxhash.xxh3_64_digest(text) + text + content[24 + size :]


@pytest.mark.parametrize(
    "damage", [torn, longer, flipped_end, flipped_header, huge_header, foreign, lambda _: b""]
)
def test_a_file_that_is_not_whole_is_made_again(large: Corpus, tmp_path: Path, damage: object) -> None:
    counts = [len(large)]
    blocks_of(large, 1, "a", counts, 0.1, 300)
    path = kept_file(large)
    content = path.read_bytes()
    path.write_bytes(damage(content))  # type: ignore[operator]
    found = blocks_of(opened(tmp_path, large.table), 1, "a", counts, 0.1, 300)
    same(found, PlainBlocks(1, "a", large.table, counts, 0.1, 300), counts, large.table)
    assert path.read_bytes() == content


def test_where_no_file_can_be_kept_it_is_said_once(large: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told: list[str] = []
    corpus = opened(tmp_path, large.table, told, cache="file")
    for _ in range(3):
        found = blocks_of(corpus, 1, "a", [len(large)], 0.1, 300)
        same(found, PlainBlocks(1, "a", large.table, [len(large)], 0.1, 300), [len(large)], large.table)
    (line,) = told
    assert "corpus a" in line
    assert "data.cache.folder" in line
    quiet: list[str] = []
    follower = opened(tmp_path, large.table, quiet, cache="file")
    follower.looked_at = False
    blocks_of(follower, 1, "a", [len(large)], 0.1, 300)
    assert not quiet


def test_several_processes_may_make_it_at_once(large: Corpus, tmp_path: Path) -> None:
    counts, ready = [len(large)], []
    children = []
    for _ in range(4):
        if not (child := os.fork()):
            blocks_of(large, 1, "a", counts, 0.1, 300)
            os._exit(0)
        children.append(child)
    ready = [os.waitpid(child, 0)[1] for child in children]
    assert ready == [0] * 4
    assert kept_file(large)
    found = blocks_of(opened(tmp_path, large.table), 1, "a", counts, 0.1, 300)
    same(found, PlainBlocks(1, "a", large.table, counts, 0.1, 300), counts, large.table)
