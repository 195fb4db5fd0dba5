"""What `headrace check` foretells of mixing, beside what a loader then draws from; and its remedies tried."""

import re
from pathlib import Path

import numpy as np
import pytest

from data.plan.make import make_plan
from data.plan.plan import History
from data.stream.loader import Batch
from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.preflight.check import report
from launcher.runs.stream_settings import open_corpora, stream_settings
from tests.support.helpers import TrainingText, make_corpus
from tests.support.stream_runs import run, texts

CONFIG = """\
run: {{name: r, folder: {folder}/runs}}
steps: 100
sequence_length: 64
batch_rows: 32
tokenizer: {{model: {model}}}
data: {{corpora: {{}}}}
objectives: {{causal: {{}}, mlm: {{}}}}
model: {{layers: 1, width: 32, heads: 2}}
optimizer: {{warmup: 10}}
"""
SHORT = texts(6_000, 1)
BOOKS = [" ".join(texts(300, 50 + number)) for number in range(40)]
EDITS = {
    "one stream": (["data.block_bytes=60000"], True),
    "many blocks a step": (["data.block_bytes=1500", "batch_rows=96"], False),
    "few lanes": (["data.block_bytes=1500", "lanes=1"], True),
    "few rows": (["data.block_bytes=60000", "batch_rows=4"], False),
    "books": (["data.block_bytes=60000", "data.corpora.books.weight=3", "data.corpora.short.weight=0"], True),
    "both": (["data.block_bytes=20000", "data.corpora.books.weight=0.5", "batch_rows=48"], True),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, text: TrainingText) -> Path:
    folder = tmp_path_factory.mktemp("foretold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.shards.units.UNIT_TEXT", 1_500)
        make_corpus(folder, "short", SHORT, shard_bytes=1_000_000)
        make_corpus(folder, "books", BOOKS, shard_bytes=300_000)
    path = folder / "c.yaml"
    path.write_text(CONFIG.format(folder=folder, model=text.tokenizer_path))
    return path


def checked(file: Path, edits: list[str]) -> tuple[run_config.Config, dict[str, float], list[str]]:
    shards = [f"data.corpora.{name}.shards={file.parent}/{name}-*.tar" for name in ("short", "books")]
    weights = ["data.corpora.books.weight=0"]
    config = run_config.load(file, [*shards, *weights, *edits])
    facts = report(config, 1)
    return config, facts["mixing"], [line for line in facts["warnings"] if "rows of a step come from" in line]


@pytest.mark.parametrize("kind", EDITS)
def test_what_is_foretold_is_drawn(file: Path, kind: str) -> None:
    config, foretold, _ = checked(file, EDITS[kind][0])
    tokenizer = Tokenizer.load(config.tokenizer.model)
    corpora = open_corpora(config)
    history = History(((0, make_plan(stream_settings(config, corpora, tokenizer.hash))),))
    drawn: list[tuple[int, int]] = []

    def each(_rank: int, batch: Batch) -> None:
        drawn.append((batch.drawn.documents, batch.drawn.blocks))

    run(history, corpora, tokenizer, 60, each=each)
    documents, blocks = np.mean(drawn, axis=0)
    assert foretold["documents"] == pytest.approx(documents, rel=0.2)
    assert foretold["blocks"] == pytest.approx(blocks, rel=0.15)
    assert 1 <= foretold["shards"] <= foretold["blocks"]


@pytest.mark.parametrize("kind", EDITS)
def test_a_step_that_comes_from_few_is_told_with_a_remedy_that_helps(file: Path, kind: str) -> None:
    edits, few = EDITS[kind]
    _, before, lines = checked(file, edits)
    assert bool(lines) == few
    if not few:
        return
    (line,) = lines
    if "more lanes" in line:
        edits = [*edits, "lanes=12"]
    elif found := re.search(r"(smaller|larger) blocks, such as data.block_bytes=(\d+)", line):
        edits = [*edits, f"data.block_bytes={found[2]}"]
    else:
        assert "more text of" in line
        return
    _, after, _ = checked(file, edits)
    assert after["documents"] > 1.3 * before["documents"] or after["blocks"] > 1.5 * before["blocks"]
