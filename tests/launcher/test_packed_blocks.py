"""What `headrace check` foretells of padding is what the loader then gives."""

import random
from pathlib import Path

import numpy as np
import pytest

from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.stream.loader import Loader
from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.preflight.check import report
from launcher.preflight.estimates import padding_share
from launcher.runs.stream_settings import open_corpora, stream_settings
from tests.support.commands import Commands
from tests.support.helpers import Corpora, pack_texts
from tests.support.stream_runs import WORDS

CONFIG = """\
run: {{name: r, folder: {folder}/runs}}
steps: 10
sequence_length: 128
batch_rows: 50
tokenizer: {{model: {model}}}
data: {{corpora: {{alike: {{shards: '{alike}'}}}}, block_bytes: 40000}}
objectives: {{causal: {{}}}}
model: {{layers: 1, width: 16, heads: 2}}
optimizer: {{warmup: 1}}
layout: {{micro_batch: 10}}
"""


@pytest.fixture
def alike(tmp_path: Path, corpora: Corpora) -> Path:
    """Documents of nearly one length, so that two in a row leave much of it empty."""
    luck = random.Random(2)
    texts = [f"{number} " + " ".join(luck.choices(WORDS, k=luck.randint(38, 41))) for number in range(2_000)]
    shards = pack_texts(tmp_path, "alike", texts).shards[0]
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path, model=corpora.tokenizer_path, alike=shards))
    return path


def in_the_rows(config: run_config.Config) -> float:
    """The share of padding in 500 rows as the loader gives them."""
    tokenizer = Tokenizer.load(config.tokenizer.model)
    opened = open_corpora(config)
    history = History(((0, make_plan(stream_settings(config, opened, tokenizer.hash))),))
    state, memory = StreamPositions(), 1 << 30
    with Loader(
        history,
        opened,
        tokenizer,
        rank=0,
        world=1,
        first_row=0,
        state=state,
        micro_batch=10,
        threads=0,
        memory_bytes=memory,
    ) as batches:
        return float(np.mean([np.mean(next(batches).rows.corpus < 0) for _ in range(10)]))


@pytest.mark.parametrize("padding", ["0.01", "0.1", "never"])
def test_padding_is_foretold_from_blocks_that_are_packed(alike: Path, padding: str) -> None:
    config = run_config.load(alike, [f"data.padding={padding}"])
    facts = report(config, 1)
    (corpus,) = facts["corpora"]
    packing, found = corpus["packing"], in_the_rows(config)
    assert corpus["padding"] == packing["padding"] == pytest.approx(found, rel=0.3)
    assert packing["padding_never"] > 0.08
    assert (packing["cuts_per_1000"] > 0) == (padding != "never")
    assert packing["cuts_per_1000"] < packing["chopped_per_1000"]
    if padding != "never":
        assert found < float(padding) + 1.1 / packing["rows"]
    assert facts["warnings"] == []


def test_what_cannot_be_cut_is_named(alike: Path, headrace: Commands) -> None:
    nsp = "objectives={nsp: {}, causal: null}"
    shown = headrace.ok("check", alike, nsp)
    assert "packed; nothing can be cut, for a segment of nsp stays whole)" in shown
    assert "though data.padding is 0.01: nothing can be cut, for a segment of nsp stays whole" in shown
    assert "though" not in headrace.ok("check", alike, nsp, "data.padding=0.3")
    mixed = headrace.ok("check", alike, "objectives={nsp: {weight: 1}}")
    assert "packed; segments of nsp stay whole)" in mixed


def test_data_show_says_what_was_cut(alike: Path, headrace: Commands) -> None:
    shown = headrace.ok("data", "show", alike, "--step", "1")
    assert 0 < shown.count("cut to fill the row") < 50
    assert "cut to fill" not in headrace.ok("data", "show", alike, "data.padding=never", "--step", "1")


def test_blocks_that_are_too_large_to_be_looked_at_have_a_row_of_padding_each() -> None:
    """Rows 16 times as long, of 16 blocks opened as one, lose the share that the planned ones lost."""
    planned, longer = padding_share(1600, 32), padding_share(1600 / 16, 32 / 16)
    assert planned == pytest.approx(longer)
    assert 0 < planned < 0.02
    assert padding_share(0, 0) == 0
