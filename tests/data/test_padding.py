"""The bound on padding: kept where segments may be cut, by few cuts; every token once; the rows of before
where none is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.stream.padding import FilledRows, fill_rows, most_rows
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.registry import NAMES
from objectives.segments import Texts
from tests.data.test_stream_tokens import NUMBERS
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.stream_runs import run, settings, small_units, start

ALL: dict[str, Any] = {name: {} for name in NAMES}
LENGTHS = {
    "a quarter": (0.26, 0.30),
    "a third": (0.34, 0.37),
    "a half": (0.51, 0.60),
    "most of it": (0.7, 0.7),
    "anything": (0.002, 2.5),
}
"""Of documents, in rows."""


def builder(sizes: np.ndarray, length: int, objectives: dict[str, Any]) -> ExampleBuilder:
    generator, tokenizer = np.random.default_rng(1), FakeTokenizer()
    texts = Texts.of([generator.integers(400, 431, size, np.int32) for size in sizes], tokenizer.control)
    mixture, keys = Mixture.parse(objectives), list(range(len(sizes)))
    return ExampleBuilder(texts, texts.whole(), mixture, 0, length, tokenizer, 7, keys)


def documents(length: int, low: float, high: float, rows: int) -> np.ndarray:
    """Sizes of so many rows of documents of `low` to `high` rows."""
    count = max(1, int(rows / ((low + high) / 2)))
    return np.random.default_rng(length).integers(max(1, int(low * length)), int(high * length) + 1, count)


def padding(filled: FilledRows, length: int) -> float:
    used = [filled.segments.lengths[row].sum() for row in filled.rows]
    assert max(used) <= length
    return 1 - float(sum(used)) / (len(used) * length)


def require_every_token_once(filled: FilledRows, sizes: np.ndarray) -> None:
    segments = filled.segments
    numbers = [segment for row in filled.rows for segment in row]
    assert len(set(numbers)) == len(numbers)
    spans = np.concatenate(
        [segments.spans[segments.span_ends[i] : segments.span_ends[i + 1]] for i in numbers]
    )
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    ends = np.flatnonzero(np.diff(spans[:, 0], append=-1))
    assert (spans[ends, 2] == sizes[spans[ends, 0]]).all()
    assert len(ends) == len(sizes)
    follows = np.diff(spans[:, 0]) == 0
    assert (spans[1:, 1][follows] == spans[:-1, 2][follows]).all()


@pytest.mark.parametrize("what", LENGTHS)
@pytest.mark.parametrize(
    "objectives", [{"causal": {}}, {"fim": {}, "span": {}}, ALL], ids=["causal", "marks", "all"]
)
def test_the_bound_is_kept_and_no_token_lost(what: str, objectives: dict[str, Any]) -> None:
    for length, rows, share in ((256, 350, 0.01), (1024, 120, 0.02), (256, 25, 0.01), (1024, 100, 0.001)):
        sizes = documents(length, *LENGTHS[what], rows)
        never = fill_rows(builder(sizes, length, objectives), None)
        filled = fill_rows(builder(sizes, length, objectives), share)
        require_every_token_once(filled, sizes)
        assert padding(filled, length) <= share + 1 / len(filled.rows)
        positions = sum(never.segments.lengths[row].sum() for row in never.rows)
        if len(never.rows) <= most_rows(int(positions), length, share):
            assert filled.rows == never.rows
        assert len(filled.cut) <= 2 * len(filled.rows)


def test_fewer_are_cut_where_more_may_be_padding() -> None:
    sizes = documents(1024, *LENGTHS["a third"], 350)
    cuts = {share: len(fill_rows(builder(sizes, 1024, ALL), share).cut) for share in (0.01, 0.05, 0.2, 0.5)}
    assert list(cuts.values()) == sorted(cuts.values(), reverse=True)
    assert cuts[0.5] == 0


def test_pairs_are_never_cut_and_what_stands_beside_them_is() -> None:
    sizes = documents(256, *LENGTHS["a third"], 200)
    alone = fill_rows(builder(sizes, 256, {"nsp": {}}), 0.01)
    assert alone.rows == fill_rows(builder(sizes, 256, {"nsp": {}}), None).rows
    assert not alone.cut
    mixed = {"nsp": {}, "causal": {"weight": 2}}
    filled, whole = (fill_rows(builder(sizes, 256, mixed), share) for share in (0.01, None))
    assert filled.cut
    assert padding(filled, 256) <= 0.01 + 1 / len(filled.rows)
    nsp = NAMES.index("nsp")
    assert nsp not in filled.segments.objectives[sorted(filled.cut)]
    pairs = [sum(r.segments.objectives[[i for row in r.rows for i in row]] == nsp) for r in (filled, whole)]
    assert pairs[0] == pairs[1]


def test_a_part_is_what_its_text_would_be_by_itself() -> None:
    """Keyed by its document and first token alone: as the remainder of a document that was used up to it."""
    sizes = documents(256, *LENGTHS["a half"], 60)
    for name in ("causal", "mlm", "reverse", "prefix", "fim", "span"):
        build = builder(sizes, 256, {name: {}})
        filled = fill_rows(build, 0.01)
        segments = [filled.segments[i] for row in filled.rows for i in row]
        rests = np.array([(s.document, s.start, s.stop) for segment in segments for s in segment.spans])
        mixture = Mixture.parse({name: {}})
        alone = ExampleBuilder(build.texts, rests, mixture, 0, 256, FakeTokenizer(), 7, build.document_keys)
        for segment, other in zip(segments, alone.segments(), strict=True):
            assert segment.spans == other.spans
            assert (segment.example.tokens == other.example.tokens).all()
            assert (segment.example.targets == other.example.targets).all()


def test_where_no_cut_is_needed_the_rows_of_a_run_are_those_of_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = small_units(monkeypatch, tmp_path, "a", [" ".join(["10000"] * (40 + n % 3)) for n in range(400)])

    def rows(share: float | None) -> dict[int, int]:
        asked = settings(NUMBERS, {"a": corpus}, {"a": 1.0}, block_bytes=5_000, padding=share)
        return run(start(asked), {"a": corpus}, NUMBERS, 8).rows

    never = rows(None)
    assert rows(0.4) == never
    assert rows(0.01) != never


@pytest.mark.parametrize(
    "positions, length, share, rows", [(1000, 100, 0.0, 11), (1000, 100, 0.1, 12), (1, 100, 0.01, 1)]
)
def test_how_many_rows_the_bound_allows(positions: int, length: int, share: float, rows: int) -> None:
    assert most_rows(positions, length, share) == rows
    assert rows * length - positions <= share * rows * length + length
