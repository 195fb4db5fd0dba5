"""Each objective of the registry from a config to a loss: mixture, examples, rows, the model's sums.

It knows none of them by name, so a new one is tested by it as soon as it is registered.
"""

import math

import numpy as np
import pytest

from data.stream.packing import best_fit, pack, write_rows
from data.stream.rows import Rows
from launcher.config import run_config
from launcher.engine.forward import PlainModel
from model.config import ModelConfig
from model.initialise import initialise
from model.transformer import Transformer
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.registry import HEADS, NAMES, OBJECTIVES
from objectives.segments import Segments, Texts
from tests.support.fake_tokenizer import FakeTokenizer

T = 128
TOKENIZER = FakeTokenizer()
MIXTURES = [*([name] for name in NAMES), list(NAMES)]


def mixture_of(names: list[str]) -> Mixture:
    """As a config says it."""
    plain = {
        "run": {"name": "x"},
        "steps": 1,
        "sequence_length": T,
        "batch_rows": 1,
        "tokenizer": {"model": "tokenizer.model"},
        "data": {"corpora": {"code": {"shards": "code-*.tar"}}},
        "objectives": {name: {} for name in names},
        "model": {},
        "optimizer": {},
    }
    config = run_config.build(plain, {}, "a test")
    assert run_config.build(run_config.plain(config), {}, "a test") == config
    return config.objectives


def documents(count: int) -> Texts:
    """Documents of ordinary tokens, from one token to a few rows."""
    random = np.random.default_rng(0)
    sizes = np.append(random.integers(1, 4 * T, count - 2), [1, 2])
    return Texts.of([random.integers(400, 431, size, np.int32) for size in sizes], TOKENIZER.control)


def built(texts: Texts, mixture: Mixture) -> Segments:
    keys = range(len(texts))
    return ExampleBuilder(texts, texts.whole(), mixture, 0, T, TOKENIZER, 1, keys).segments()


def rows_of(segments: Segments) -> Rows:
    block = pack(segments, best_fit(segments.lengths, T), T, 0)
    return write_rows([(block, row) for row in range(len(block))], len(block), T, TOKENIZER.control.pad)


@pytest.mark.parametrize("names", MIXTURES, ids="+".join)
def test_all_text_is_used_once_and_counts_as_planned(names: list[str]) -> None:
    texts, mixture = documents(400), mixture_of(names)
    segments = built(texts, mixture)
    used = [np.zeros(size, dtype=int) for size in texts.sizes]
    for document, start, stop in segments.spans.tolist():
        used[document][start:stop] += 1
    assert all((counts == 1).all() for counts in used)
    assert segments.lengths.max() <= T

    weight, _ = rows_of(segments).tally((len(NAMES), 1))
    allowed = {reported for entry in mixture.entries for reported in entry.objective.reports}
    assert set(np.flatnonzero(weight[:, 0])) == allowed
    assert (mixture.coefficients() > 0).nonzero()[0].tolist() == sorted(allowed)
    planned = mixture.planned(0)
    assert set(np.flatnonzero(planned)) == allowed
    for reported in allowed:
        share = weight[reported, 0] / texts.sizes.sum()
        assert share == pytest.approx(planned[reported], rel=0.25), NAMES[reported]


def test_every_objective_has_a_loss() -> None:
    rows = rows_of(built(documents(60), mixture_of(list(NAMES))))
    config = ModelConfig(layers=1, width=32, heads=2, max_sequence_length=T)
    model = Transformer(config, TOKENIZER.size, HEADS, 1)
    initialise(model, config, seed=1)
    found = PlainModel(model).evaluate([rows])
    for objective in OBJECTIVES:
        loss = found.sums[objective.id, 0] / found.weights[objective.id, 0]
        chance = TOKENIZER.size if objective.head == "vocabulary" else 2
        assert loss == pytest.approx(math.log(chance), rel=0.2), objective.name
