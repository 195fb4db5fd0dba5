"""From how much text a step comes: what ranks report adds up to what is counted anew, row by row."""

import numpy as np
import pytest

from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.plan.segments import PlanSegments
from data.plan.steps import rows_of_step
from data.shards.corpus import Corpus
from data.stream.block import Opener
from data.stream.loader import Batch
from data.stream.mixing import ShardsOf, StepDraws
from data.stream.prefetch import Prefetcher
from data.stream.streams import Streams
from data.tokenization.tokenizer import Tokenizer
from tests.support.helpers import Corpora
from tests.support.stream_runs import edit, run, settings, small_units, start, texts

STEPS = 24
Counts = list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """`a`: about 200 units in many shards (three streams), with documents of many rows; `b`: about 30."""
    folder = tmp_path_factory.mktemp("mixing")
    with pytest.MonkeyPatch.context() as patch:
        long = [f"{number} " + "a long one of many words " * 30 for number in range(80)]
        many = [text for pair in zip(texts(2_400, 1), long * 30, strict=True) for text in pair]
        return {
            "a": small_units(patch, folder, "a", many[:800], shard_bytes=60_000),
            "b": small_units(patch, folder, "b", texts(300, 2), shard_bytes=40_000),
        }


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def history(small: dict[str, Corpus], tokenizer: Tokenizer) -> History:
    """The mixture moves by more than a tenth in it, so that blocks are built anew in the middle of steps;
    from row 200 on, rows are twice as long."""
    moving = {"causal": {"weight": [[0, 1.0], [150, 0.1]]}, "mlm": {"weight": 1}}
    asked = settings(tokenizer, small, {"a": 0.8, "b": 0.2}, objectives=moving)
    begun = start(asked)
    assert [len(corpus.shards) > 3 for corpus in small.values()] == [True, True]
    longer = settings(tokenizer, small, {"a": 0.5, "b": 0.5}, objectives=moving, length=128, batch_rows=40)
    return edit(begun, longer, 204, StreamPositions())


@pytest.fixture(scope="module")
def counted(history: History, small: dict[str, Corpus], tokenizer: Tokenizer) -> Counts:
    """Documents, blocks and shards of each step, each row looked at by itself."""
    segments = PlanSegments(history)
    opener = Opener(segments, small, tokenizer)
    streams = Streams(
        segments, opener, Prefetcher(0, ""), StreamPositions(), rank=0, world=1, memory_bytes=1 << 30
    )
    found = []
    for step in range(1, STEPS + 1):
        documents, blocks, shards = set(), set(), set()
        first, count = rows_of_step(history, step)
        for row in range(first, first + count):
            segment = segments.at(row)
            corpus = segment.plan.corpora[segment.corpus_mix.corpus_of(row)]
            drawn = streams.draw(corpus, row)
            assert drawn
            block, index = drawn
            at, table = (corpus.name, block.block_slot), block.built.rows.table
            blocks.add(at)
            for part in table.segments_of(index):
                for document, _, _ in table.spans_of(part):
                    unit, number = block.documents.units[document], block.documents.numbers[document]
                    documents.add((*at, int(unit), int(number)))
                    shards.add((corpus.name, int(small[corpus.name].index.units["shard"][unit])))
        found.append((len(documents), len(blocks), len(shards)))
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("memory", [1 << 30, 20_000])
def test_what_ranks_report_adds_up_whatever_is_kept_and_wherever_it_is_cut(
    history: History,
    small: dict[str, Corpus],
    tokenizer: Tokenizer,
    counted: Counts,
    world: int,
    memory: int,
) -> None:
    vectors: dict[int, list[np.ndarray]] = {}

    def each(_rank: int, batch: Batch) -> None:
        vectors.setdefault(batch.first_row, []).append(batch.drawn.vector)

    options = {"each": each, "memory_bytes": memory}
    half = run(history, small, tokenizer, 10, world=world, threads=world % 3, **options)
    rest = {"first_row": half.row, "state": half.state}
    run(history, small, tokenizer, STEPS - 10, world=abs(6 - world), threads=1, **rest, **options)
    shards_of = ShardsOf(Opener(PlanSegments(history), small, tokenizer))
    found = []
    for row in sorted(vectors):
        draws = StepDraws.of_vector(np.sum(vectors[row], axis=0))
        found.append((draws.documents, draws.blocks, shards_of(draws)))
    assert found == counted
    assert {shards for _, _, shards in found} != {1}
    assert any(blocks > 4 for _, blocks, _ in found), "streams went on to further blocks within a step"
