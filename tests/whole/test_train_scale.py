"""A start of several ranks on a large corpus: one process of a machine looks, all train on the same."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.plan import block_file
from data.prepare.build_index import build_index
from data.shards import corpus as corpora_module
from data.shards.corpus import Corpus, open_corpus
from data.shards.index import Index
from launcher.distributed.world import World
from launcher.runs import stream_settings
from tests.support.helpers import TrainingText
from tests.support.ranks import run
from tests.support.training import Left, config, rows_of, train, trainer


def watched(world: World, plain: dict[str, Any]) -> tuple[Left, Counter[str]]:
    """The case: a start on corpora that count as large; how often this rank did what takes long."""
    done: Counter[str] = Counter()

    def counted(name: str, work: Any) -> Any:
        def counting(*given: Any) -> Any:
            done[name] += 1
            return work(*given)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for module in (block_file, corpora_module):
            patch.setattr(module, "LARGE", 4)
        patch.setattr(block_file, "make_blocks", counted("blocks", block_file.make_blocks))
        patch.setattr(corpora_module, "as_indexed", counted("shards", corpora_module.as_indexed))
        patch.setattr(Index, "intact", counted("tables", Index.intact))
        patch.setattr(Index, "fingerprint_of", counted("fingerprints", Index.fingerprint_of))
        return trainer(world, plain), done


def test_one_process_looks_and_the_next_start_finds_its_file(text: TrainingText, tmp_path: Path) -> None:
    short = {"steps": 4, "batch_rows": 4, "objectives": {"causal": {"weight": 1}}}
    straight = config(text, tmp_path / "straight", **short)
    expected = rows_of(train(1, straight))
    seen = []
    for name in ("first", "second"):
        plain = config(text, tmp_path / name, **short)
        plain["data"]["cache"] = {"folder": str(tmp_path / "cache")}
        found = run(watched, 2, plain, timeout=120)
        assert [left.code for left, _ in found] == [0, 0], [left.line for left, _ in found]
        assert rows_of([left for left, _ in found]) == expected
        seen.append([done for _, done in found])
    nothing: Counter[str] = Counter()
    assert seen[0] == [Counter(blocks=2, shards=2, tables=2), nothing]
    assert seen[1] == [Counter(shards=2), nothing]


def test_one_process_looks_at_what_is_evaluated_on_too(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, steps=2, objectives={"causal": {"weight": 1}})
    own = plain["data"]["corpora"].pop("prose")
    plain["data"]["cache"] = {"folder": str(tmp_path / "cache")}
    plain["eval"] = {"every": 2, "corpora": {"own": {"shards": own["shards"]}}}
    found = run(watched, 2, plain, timeout=120)
    assert [left.code for left, _ in found] == [0, 0], [left.line for left, _ in found]
    (first, other) = [done for _, done in found]
    assert (first["shards"], first["tables"]) == (2, 2)
    assert (other["shards"], other["tables"]) == (0, 0)


def elsewhere(world: World, plain: dict[str, Any], what: str, other: str) -> Left:
    """The case: rank 1 is on a machine where `what` is otherwise."""

    def there(name: str, shards: Any, index: Any, *given: Any, **options: Any) -> Corpus:
        if name == "code" and what == "index":
            return open_corpus(name, shards, other, *given, **options)
        if name == "code" and what == "shards":
            return open_corpus(name, [f"{other}/code-*.tar"], index, *given, **options)
        return open_corpus(name, shards, index, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 1:
            patch.setattr(stream_settings, "open_corpus", there)
        return trainer(world, plain)


@pytest.mark.parametrize("what", ["index", "shards"])
def test_a_machine_that_sees_something_else_is_one_line(
    text: TrainingText, tmp_path: Path, what: str
) -> None:
    folder = Path(text.code).parent
    if what == "index":
        for shard in folder.glob("code-*.tar"):
            shutil.copy2(shard, tmp_path)
        build_index([str(tmp_path / "code-*.tar")], tmp_path / "code.index", unit_text=50_000)
        shutil.copy(tmp_path / "code.index", folder / "other.index")
        other = str(folder / "other.index")
    else:
        other = str(tmp_path / "not-mounted")
    plain = config(text, tmp_path, steps=2)
    plain["data"]["patience"] = 0.0
    left = run(elsewhere, 3, plain, what, other, timeout=120)
    (line,) = [one.line for one in left if one.line and "told" not in one.line]
    assert "\n" not in line
    assert [one.code for one in left] == [2, 2, 2]
    if what == "index":
        assert "is not the index that rank 0 reads" in line
        assert "other.index" in line
    else:
        assert "not-mounted" in line
        assert "data.corpora.code" in line
