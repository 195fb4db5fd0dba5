"""Exchanging parts of segments: what an objective may answer, what becomes of it, and who knows of it."""

import ast
from dataclasses import dataclass

import numpy as np
import pytest

from objectives.example import Example, Source, Sources
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Entry, Mixture
from objectives.objective import BlockSegments, Exchange, Objective
from objectives.ragged import moved
from objectives.registry import OBJECTIVES, objective_class
from objectives.rng import Rng
from objectives.schedule import Schedule
from objectives.segments import Segments, Texts
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.sources import ROOT, source_files

TOKENIZER = FakeTokenizer()


@dataclass(frozen=True)
class Rotate(Objective):
    """Each segment is half its own and half the next one's; `alone` ones find no partner."""

    name = "rotate"
    head = "vocabulary"
    id = 0
    density = 1.0
    exchanges = True

    alone: tuple[int, ...] = ()
    split: int = 5
    willing: bool = True

    def fit(self, remaining, length, tokenizer, first=True, last=True) -> int:
        return min(len(remaining), length)

    def exchange(self, own: BlockSegments) -> Exchange:
        if not self.willing:
            return super().exchange(own)
        partners, number = np.arange(len(own)), np.arange(len(own))
        moving = np.setdiff1d(number, self.alone)
        partners[moving] = np.roll(moving, -1)
        return Exchange(np.full(len(own), self.split), partners, np.array(self.alone, dtype=np.int64))

    def make(self, source: Source, rng: Rng) -> Example:
        n = len(source.tokens)
        assert source.split in (0, 5, n)
        bound = np.arange(n, dtype=np.int32)
        weights = np.full(n, source.foreign, dtype=np.float32)
        return Example(source.tokens, source.tokens, weights, bound, np.full(n, self.id, dtype=np.int8))


def built(rotate: Rotate, *others: str) -> Segments:
    """Five documents of ten tokens each, 401 … 405."""
    given = [np.full(10, 401 + i, dtype=np.int32) for i in range(5)]
    texts, weight = Texts.of(given, TOKENIZER.control), Schedule.parse(1)
    rare = [Entry(objective_class(name)(), Schedule.parse(1e-9)) for name in others]
    mixture = Mixture((Entry(rotate, weight), *rare))
    return ExampleBuilder(texts, texts.whole(), mixture, 0, 16, TOKENIZER, 1, range(5)).segments()


def test_second_parts_go_where_the_exchange_says() -> None:
    segments = built(Rotate())
    expected = [(5 * [401 + i], 5 * [401 + (i + 1) % 5]) for i in range(5)]
    found = [segment.example.tokens.tolist() for segment in segments]
    assert found == [own + other for own, other in expected]
    spans = [[(span.document, span.start, span.stop) for span in segment.spans] for segment in segments]
    assert spans == [[(i, 0, 5), ((i + 1) % 5, 5, 10)] for i in range(5)]
    assert all((segment.example.weights == 1).all() for segment in segments)


def test_without_a_body_of_its_own_nobody_exchanges() -> None:
    for segment in built(Rotate(willing=False)):
        assert (segment.example.tokens == segment.example.tokens[0]).all()
        assert (segment.example.weights == 0).all()


def test_who_finds_no_partner_is_cut_again_for_an_objective_that_keeps_its_parts() -> None:
    segments = built(Rotate(alone=(1, 3)), "mlm")
    mlm = objective_class("mlm").id
    kept = [segment for segment in segments if segment.objective == mlm]
    assert [segment.spans[0].document for segment in kept] == [1, 3]
    assert [len(segment.spans) for segment in kept] == [1, 1]
    rotated = [segment for segment in segments if segment.objective == Rotate.id]
    assert [[span.document for span in segment.spans] for segment in rotated] == [[0, 2], [2, 4], [4, 0]]
    # Where nobody else is there, it stays as it is.
    alone = built(Rotate(alone=(1, 3)))
    assert [len(segment.spans) for segment in alone] == [2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    "partners, alone, message",
    [
        ([1, 1, 2], [], "partners: expected the number of each segment once"),
        ([1, 0, 3], [], "partners: expected the number of each segment once"),
        ([1, 0], [], "partners: expected the number of each segment once"),
        ([1, 0, 2], [0], "alone: expected segments that keep their own"),
    ],
)
def test_an_exchange_that_would_repeat_or_lose_text_is_refused(partners, alone, message) -> None:
    splits = np.array([1, 1, 1])
    with pytest.raises(ValueError, match=f"^{message}"):
        Exchange(splits, np.array(partners), np.array(alone, dtype=np.int64))


@pytest.mark.parametrize("split", [0, 11])
def test_a_split_outside_its_segment_is_refused(split: int) -> None:
    with pytest.raises(ValueError, match=r"^rotate: a split of its exchange is not inside"):
        built(Rotate(split=split))


def test_an_exchange_between_documents() -> None:
    sizes = np.array([4, 6, 8, 4, 6])
    sources = Sources.of([Source(np.full(n, 401, np.int32), 1, 2, True, True, TOKENIZER) for n in sizes])
    own = BlockSegments(sources, np.array([0, 0, 1, 2, 3]), 16, np.arange(5, dtype=np.uint64), 7)
    found = Exchange.between_documents(own, sizes // 2, np.array([0, 1, 2, 4]))
    assert sorted(found.partners[[0, 1, 2, 4]].tolist()) == [0, 1, 2, 4]
    assert found.partners[3] == 3
    assert (own.documents[found.partners] != own.documents)[[0, 1, 2, 4]].all()
    # Of two documents, one with two segments: one of these is left over.
    found = Exchange.between_documents(own, sizes // 2, np.array([0, 1, 2]))
    assert len(found.alone) == 1
    assert own.documents[found.alone].tolist() == [0]


def test_moved() -> None:
    assert moved(np.array([4, 1, 9]), np.array([3, 2, 0])).tolist() == [4, 5, 6, 1, 2]


def test_who_builds_and_packs_knows_no_objective() -> None:
    """Objectives are named in the registry, and by one another; `generate` asks how reverse was trained."""
    homes = {objective.__module__ for objective in OBJECTIVES}
    free = {f"{home.replace('.', '/')}.py" for home in homes} | {"launcher/inference/generate.py"}
    files = [path for path in source_files() if path.relative_to(ROOT).as_posix() not in free]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in homes, f"{path}:{node.lineno}"
            if isinstance(node, ast.Import):
                assert homes.isdisjoint(alias.name for alias in node.names), f"{path}:{node.lineno}"
