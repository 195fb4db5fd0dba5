"""What the stream costs over bare SentencePiece encoding, and beside webdataset's own loader.

    python -m tests.bench.data [--rounds 9] [--folder F]

Packs the built-in corpora, and the paragraphs of `prose` as documents of their own: one by one (`short`, 31
tokens in the mean) and to about a kilobyte together (`web`, as long as a page of the web). Trains a unigram
model of 32 000 ids. All of it into a folder, once. All times are CPU seconds of the process and its finished
children. Both sides of a ratio are measured in alternation within a round, bare and loader even block by
block, so that a busy machine is unfair to both alike; printed are the median and the range of the rounds'
ratios of tokens per CPU second.

The process is set as a trainer's is: freed memory is kept (launcher/distributed/allocator.py), and garbage is
collected when asked for (launcher/training/gc_schedule.py). That holds for both sides.

- bare: SentencePiece's `encode` by the model as it was trained, of lists of freshly decoded texts (a str
  caches its UTF-8 form), one thread. The loader encodes by a form of the model that gives the same ids in
  less time (data/tokenization/whitespace.py) and so can be faster than bare; the ratio over that form alone
  stands beside.
- loader: data.stream.loader from shards to batches, T 1024, B 64, one rank, no threads.
- webdataset: tar reading, shuffle(1000), encode of each text, concatenate and chop, one worker; beside it the
  loader with one thread that opens and one that assembles.
"""

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from sentencepiece import SentencePieceProcessor

from data.plan.make import CorpusSettings, StreamSettings, make_plan
from data.plan.plan import History, OnBad
from data.plan.positions import StreamPositions
from data.prepare.pack import pack, pack_documents
from data.provenance.trace import walk
from data.shards.corpus import Corpus, open_corpus
from data.sources import builtin
from data.sources.documents import Document
from data.stream.loader import Batch, Loader
from data.stream.token_cache import TokenCache
from data.tokenization.tokenizer import Tokenizer
from data.tokenization.train import train
from launcher.distributed.allocator import keep_memory
from launcher.training.gc_schedule import collected_by_step
from objectives.mixture import Mixture
from objectives.registry import NAMES
from objectives.schedule import Schedule

T, B, LANES = 1024, 64, 12
CORPORA = "code", "prose", "web", "short"
PASSES = 3
"""Of a corpus against webdataset: starting and what was opened ahead are then a small part."""


def prepare(folder: Path) -> tuple[dict[str, Corpus], Tokenizer]:
    """The corpora and the tokenizer, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("code", "prose"):
        if not (folder / f"{name}.index").exists():
            pack([f"builtin:{name}"], folder / name)
    for name, size in (("short", 1), ("web", 1000)):
        if not (folder / f"{name}.index").exists():
            pack_documents(paragraphs(size), folder / name)
    corpora = {name: open_corpus(name, [str(folder / f"{name}-*.tar")]) for name in CORPORA}
    if not (folder / "tokenizer.model").exists():
        sources = [corpora["code"], corpora["prose"]]
        train(sources, folder / "tokenizer.model", vocabulary=32_000, budget=16 << 20)
    return corpora, Tokenizer.load(folder / "tokenizer.model")


def paragraphs(size: int) -> Iterator[Document]:
    """The paragraphs of `prose`, as many together as make `size` characters."""
    for document in builtin.documents("prose"):
        kept: list[str] = []
        for number, text in enumerate((document.text or "").split("\n\n")):
            kept += [text] if text.strip() else []
            if sum(map(len, kept)) >= size:
                yield Document(document.source, "\n\n".join(kept), None, number)
                kept = []


def cpu_seconds(work: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds of all threads and finished children, and the result."""

    def used() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before = used()
    result = work()
    return used() - before, result


def history(
    corpora: Mapping[str, Corpus],
    tokenizer: Tokenizer,
    objectives: dict,
    block_bytes: int | None = None,
    held_out: float = 0.0,
) -> History:
    """A plan of these corpora, equal weights."""
    asked = StreamSettings(
        seed=1,
        tokenizer=tokenizer.hash,
        lanes=LANES,
        length=T,
        batch_rows=B,
        block_bytes=block_bytes,
        corpora={
            name: CorpusSettings(corpus, Schedule.parse(1), held_out) for name, corpus in corpora.items()
        },
        mixture=Mixture.parse(objectives),
        max_length=T,
        normalise="global",
        quarantine=(),
        on_bad=OnBad(),
    )
    return History(((0, make_plan(asked)),))


def loader(
    plan: History,
    corpora: Mapping[str, Corpus],
    tokenizer: Tokenizer,
    done: int = 0,
    state: StreamPositions | None = None,
    threads: int = 0,
    memory_bytes: int = 2 << 30,
    token_cache: TokenCache | None = None,
) -> Loader:
    """The loader of one rank, when so many steps are done."""
    return Loader(
        plan,
        corpora,
        tokenizer,
        rank=0,
        world=1,
        first_row=done * B,
        state=state or StreamPositions(),
        micro_batch=8,
        threads=threads,
        memory_bytes=memory_bytes,
        token_cache=token_cache,
    )


@dataclass
class Padding:
    """Positions seen, and how many of them are padding."""

    positions: int = 0
    empty: int = 0

    def add(self, batch: Batch) -> None:
        self.positions += batch.rows.tokens.size
        self.empty += int((batch.rows.corpus < 0).sum())


def fresh_texts(corpus: Corpus) -> list[list[str]]:
    """The texts of the corpus, decoded anew, in lists of eight units."""
    units = [[sample.text for sample in corpus.read_unit(unit)] for unit in range(len(corpus))]
    return [[text for unit in units[i : i + 8] for text in unit if text] for i in range(0, len(units), 8)]


def count(encoded: list[np.ndarray]) -> int:
    """Tokens in all."""
    return sum(map(len, encoded))


class Speed:
    """Tokens per CPU second, added up over turns."""

    def __init__(self, work: Callable[..., int]) -> None:
        self._work, self._cpu, self.tokens = work, 0.0, 0

    def turn(self, *arguments: Any) -> None:
        """Does the work once more; it returns how many tokens it took."""
        cpu, tokens = cpu_seconds(partial(self._work, *arguments))
        self._cpu, self.tokens = self._cpu + cpu, self.tokens + tokens

    def over(self, other: "Speed") -> float:
        """This one's speed over another's."""
        return self.tokens / self._cpu / (other.tokens / other._cpu)


def over_bare(
    corpus: Corpus, tokenizer: Tokenizer, bare: SentencePieceProcessor, objectives: dict, rounds: int
) -> tuple[list[float], list[float], Padding]:
    """For each pass of the corpus: the loader's tokens per CPU second over bare encoding's, and over those of
    the form of the model by which it encodes."""
    over, over_form, padding = [], [], Padding()
    corpora = {corpus.name: corpus}
    with loader(history(corpora, tokenizer, objectives), corpora, tokenizer) as batches:

        def take() -> int:
            batch = next(batches)
            padding.add(batch)
            return int(batch.source_tokens.sum())

        for _ in range(rounds):
            plain = Speed(lambda texts: count(bare.encode(texts, return_type="numpy", num_threads=1)))
            form = Speed(lambda texts: count(tokenizer.encode_documents(texts)))
            ours = Speed(take)
            for first, second in zip(fresh_texts(corpus), fresh_texts(corpus), strict=True):
                plain.turn(first)
                form.turn(second)
                while ours.tokens < plain.tokens:
                    ours.turn()
            over.append(ours.over(plain))
            over_form.append(ours.over(form))
    return over, over_form, padding


def by_webdataset(corpus: Corpus, tokenizer: Tokenizer, bare: SentencePieceProcessor) -> int:
    """One pass of webdataset's loader in batches of 64 rows; returns the tokens in them."""
    control = tokenizer.control

    def chop(samples: Iterator[dict]) -> Iterator[np.ndarray]:
        kept: list[int] = []
        rows: list[np.ndarray] = []
        for sample in samples:
            kept += [control.begin, *bare.encode(sample["txt"].decode()), control.end]
            while len(kept) > T:
                rows.append(np.array(kept[: T + 1]))
                kept = kept[T:]
                if len(rows) == B:
                    yield np.stack(rows)
                    rows = []

    shards = [str(shard) for shard in corpus.shards]
    rows = webdataset.WebDataset(shards, shardshuffle=100).shuffle(1000).compose(chop)
    return sum(len(batch) * T for batch in webdataset.WebLoader(rows, batch_size=None, num_workers=1))


def over_webdataset(
    corpus: Corpus, tokenizer: Tokenizer, bare: SentencePieceProcessor, rounds: int
) -> list[float]:
    """For each round: the threaded loader's tokens per CPU second over webdataset's, three passes each."""
    corpora = {corpus.name: corpus}
    plan = history(corpora, tokenizer, {"causal": {}})

    def ours() -> int:
        tokens = 0
        with loader(plan, corpora, tokenizer, threads=1) as batches:
            while tokens < PASSES * corpus.index.text_bytes / 4:
                tokens += int(next(batches).source_tokens.sum())
        return tokens

    def theirs() -> int:
        return sum(by_webdataset(corpus, tokenizer, bare) for _ in range(PASSES))

    ratios = []
    for _ in range(rounds):
        loader_, peer = Speed(ours), Speed(theirs)
        loader_.turn()
        peer.turn()
        ratios.append(loader_.over(peer))
    return ratios


def needless_cuts(corpus: Corpus, tokenizer: Tokenizer) -> tuple[int, int]:
    """(documents that were cut though they fit a row, documents) in the first rows of the corpus."""
    corpora = {corpus.name: corpus}
    plan = history(corpora, tokenizer, {"causal": {}})
    pieces: dict[str, list[int]] = {}
    for step in range(1, 9):
        for row in walk(plan, corpora, tokenizer, step):
            for piece in row.segments:
                for part in piece.parts:
                    pieces.setdefault(part.key, []).append(part.stop - part.start)
    return sum(len(parts) > 1 and sum(parts) < T for parts in pieces.values()), len(pieces)


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench")
    arguments = parser.parse_args()
    corpora, tokenizer = prepare(arguments.folder)
    bare = SentencePieceProcessor(model_file=str(arguments.folder / "tokenizer.model"))
    keep_memory()
    everything: dict[str, Any] = {name: {} for name in NAMES}
    causal: dict[str, Any] = {"causal": {}}
    cases = [*((name, causal) for name in CORPORA), ("code", everything)]
    for name, objectives in cases:
        title = "causal" if len(objectives) == 1 else "all objectives"
        with collected_by_step():
            over, over_form, padding = over_bare(corpora[name], tokenizer, bare, objectives, arguments.rounds)
        empty = padding.empty / padding.positions
        print(f"{name}, {title}: over bare encoding {spread(over)}, padding {empty:.2%}", flush=True)
        print(f"{name}, {title}: over its own encoding {spread(over_form)}", flush=True)
    for name in CORPORA:
        cut, documents = needless_cuts(corpora[name], tokenizer)
        print(f"{name}: needless cuts {cut} of {documents} documents", flush=True)
        with collected_by_step():
            ratios = over_webdataset(corpora[name], tokenizer, bare, max(3, arguments.rounds // 3))
        print(f"{name}, causal: over webdataset's loader {spread(ratios)}", flush=True)


if __name__ == "__main__":
    main()
