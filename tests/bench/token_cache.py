"""What the token cache saves: the loader with it over the loader without it.

    python -m tests.bench.token_cache [--rounds 5] [--folder F]

The corpora, the tokenizer and the loader are those of tests/bench/data.py; causal, one pass of the corpus.

- cached: tokens per CPU second of a loader that finds every block in the cache, over those of one without a
  cache, in alternation; and the bytes of the cache over those of the text.
- two processes: the CPU seconds of two that read the same streams at once, without a cache, over those of two
  that begin with an empty one together.
"""

import argparse
import multiprocessing
import shutil
import tempfile
from pathlib import Path

from data.shards.corpus import Corpus
from data.stream.token_cache import TokenCache
from data.tokenization.tokenizer import Tokenizer
from launcher.distributed.allocator import keep_memory
from launcher.training.gc_schedule import collected_by_step
from tests.bench.data import CORPORA, PASSES, Speed, cpu_seconds, history, loader, prepare, spread


def one_pass(corpus: Corpus, tokenizer: Tokenizer, folder: Path | None, passes: int = 1) -> int:
    """Tokens of about so many passes of the corpus."""
    corpora = {corpus.name: corpus}
    cache = TokenCache(str(folder), 64.0, print) if folder else None
    tokens = 0
    with loader(
        history(corpora, tokenizer, {"causal": {}}), corpora, tokenizer, token_cache=cache
    ) as batches:
        while tokens < passes * corpus.index.text_bytes / 4:
            tokens += int(next(batches).source_tokens.sum())
    return tokens


def two(corpus: Corpus, tokenizer: Tokenizer, folder: Path | None) -> int:
    """Two processes, a pass each, at once; their tokens do not matter."""
    context = multiprocessing.get_context("fork")
    begun = [context.Process(target=one_pass, args=(corpus, tokenizer, folder)) for _ in range(2)]
    for process in begun:
        process.start()
    for process in begun:
        process.join()
        assert process.exitcode == 0
    return 0


def measured(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, rounds: int
) -> tuple[list[float], list[float], float]:
    """Of each round: cached over uncached; two processes that share an empty cache over two without one. And
    bytes kept for a byte of text."""
    ratios, both = [], []
    one_pass(corpus, tokenizer, folder / "kept", PASSES)
    for _ in range(rounds):
        cached, uncached = Speed(one_pass), Speed(one_pass)
        uncached.turn(corpus, tokenizer, None)
        cached.turn(corpus, tokenizer, folder / "kept", PASSES)
        ratios.append(cached.over(uncached))
        alone, _ = cpu_seconds(lambda: two(corpus, tokenizer, None))
        together, _ = cpu_seconds(lambda: two(corpus, tokenizer, folder / "shared"))
        both.append(alone / together)
        shutil.rmtree(folder / "shared")
    size = sum(path.stat().st_size for path in (folder / "kept").iterdir())
    return ratios, both, size / corpus.index.text_bytes


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench")
    arguments = parser.parse_args()
    corpora, tokenizer = prepare(arguments.folder)
    keep_memory()
    for name in CORPORA:
        with tempfile.TemporaryDirectory() as folder, collected_by_step():
            ratios, both, size = measured(corpora[name], tokenizer, Path(folder), arguments.rounds)
        print(f"{name}: cached over uncached {spread(ratios)}, {size:.2f} bytes a byte of text", flush=True)
        print(f"{name}: two processes, an empty cache over none {spread(both)}", flush=True)


if __name__ == "__main__":
    main()
