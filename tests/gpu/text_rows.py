"""Rows of real text as the loader makes them, from the small corpora that the tests share."""

from collections.abc import Sequence

from data.plan.positions import StreamPositions
from data.stream.loader import Loader
from data.stream.rows import Rows
from tests.gpu.workloads import SIZE
from tests.support.corpora import small_corpora
from tests.support.stream_runs import settings, start


def vocabulary_of_text() -> int:
    """Ids of the shared tokenizer."""
    return small_corpora().tokenizer().size


def text_micro_batches(objectives: Sequence[str], length: int) -> list[Rows]:
    """The micro-batches of a step: two of SIZE.positions, all objectives with equal weight."""
    found = small_corpora()
    tokenizer, corpora = found.tokenizer(), {name: found.open(name) for name in ("code", "prose")}
    rows = SIZE.positions // length
    asked = settings(
        tokenizer,
        corpora,
        {"code": 1, "prose": 1},
        length=length,
        max_length=length,
        lanes=4 * rows,
        batch_rows=2 * rows,
        block_bytes=100_000,
        objectives={name: {} for name in objectives},
    )
    loader = Loader(
        start(asked),
        corpora,
        tokenizer,
        rank=0,
        world=1,
        first_row=0,
        state=StreamPositions(),
        micro_batch=rows,
        threads=0,
        memory_bytes=1 << 30,
    )
    with loader:
        return next(loader).micro_batches
