"""What building costs, per source token and over bare SentencePiece encoding of the same block.

    python -m tests.bench.objectives TOKENIZER.model [T]

For each embedded corpus one block of the usual size; encoding and building alternate, each line is the median
of seven rounds of CPU time in one process.
"""

import itertools
import statistics
import sys
import time

from data.plan.make import usual_block_bytes
from data.sources.builtin import documents
from data.tokenization.tokenizer import Tokenizer
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.registry import NAMES
from objectives.segments import Texts

ROUNDS = 7
CONFIGS: dict[str, dict] = {
    **{name: {name: {}} for name in NAMES},
    "reverse, characters": {"reverse": {"unit": "character"}},
    "mlm, whole words": {"mlm": {"whole_word": True}},
    "nsp, order": {"nsp": {"order": True}},
    "span, ul2": {"span": {"denoisers": "ul2"}},
    "all": {name: {} for name in NAMES},
}


def block(corpus: str, size: int) -> list[bytes]:
    """Documents from all over the corpus, `size` bytes of text."""
    texts = [document.text.encode() for document in documents(corpus) if document.text]
    spread = itertools.chain.from_iterable(texts[first::97] for first in range(97))
    taken, total = [], 0
    for text in spread:
        if total >= size:
            break
        taken.append(text)
        total += len(text)
    return taken


def main(model: str, length: int = 1024) -> None:
    tokenizer = Tokenizer.load(model)
    for corpus in ("code", "prose"):
        texts = block(corpus, usual_block_bytes(length))
        encoding: list[float] = []
        building: dict[str, list[float]] = {name: [] for name in CONFIGS}
        for number in range(ROUNDS):
            fresh = [text.decode() for text in texts]  # a str caches its UTF-8 form
            started = time.process_time()
            encoded = tokenizer.encode_documents(fresh)
            encoding.append(time.process_time() - started)
            given = Texts.of(encoded, tokenizer.control)
            for name, config in CONFIGS.items():
                mixture = Mixture.parse(config)
                started = time.process_time()
                ExampleBuilder(
                    given, given.whole(), mixture, 0, length, tokenizer, number, range(len(given))
                ).segments()
                building[name].append(time.process_time() - started)
        tokens = sum(map(len, encoded))
        bare = statistics.median(encoding)
        print(
            f"{corpus}: {len(texts)} documents, {tokens} tokens, encoding {bare / tokens * 1e9:.0f} ns each"
        )
        for name, seconds in building.items():
            spent = statistics.median(seconds)
            print(f"  {name:20} {spent / tokens * 1e9:7.1f} ns a token {spent / bare:7.3f} of encoding")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
