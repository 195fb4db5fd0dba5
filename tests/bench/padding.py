"""What the bound on padding cuts, what it leaves empty, and what it costs.

    python -m tests.bench.padding [--rounds 5] [--folder F]

Documents of nearly one length (in rows), and the corpora of tests/bench/data.py, in blocks of about a MiB of
text at T 1024; each with next-token prediction alone and with all objectives. For every bound: padding, and
cuts a thousand documents that are made for it and nothing else; "!" where the bound and a row is not kept.
`chop` is concat-and-chop: its cuts beyond those that documents longer than a row need anyway. Times are CPU
µs a segment: of best fit, and of packing with the bound, the Examples of its parts included; medians of the
rounds.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.stream.packing import best_fit
from data.stream.padding import FilledRows, fill_rows
from data.tokenization.tokenizer import Tokenizer
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.registry import NAMES
from objectives.segments import Segments, Texts
from tests.bench.data import CORPORA, cpu_seconds, prepare

T, BLOCK = 1024, 1 << 20
BOUNDS = 0.05, 0.02, 0.01
ALIKE = {
    "0.26-0.30 T": (0.26, 0.30),
    "0.34-0.37 T": (0.34, 0.37),
    "0.51-0.60 T": (0.51, 0.60),
    "0.7 T": (0.7, 0.7),
}
ROWS = 350
"""Of a block: about as many as a MiB of English text fills."""
MIXTURES = {"causal": ["causal"], "all": list(NAMES)}


def alike(tokenizer: Tokenizer, low: float, high: float) -> Texts:
    """Documents of `low` to `high` rows, of ordinary ids."""
    luck = np.random.default_rng(1)
    sizes = luck.integers(int(low * T), int(high * T) + 1, int(ROWS / ((low + high) / 2)))
    return Texts.of([luck.choice(tokenizer.ordinary, size) for size in sizes], tokenizer.control)


def blocks(folder: Path) -> Iterator[tuple[str, Texts]]:
    """(name, documents) of a block of each kind."""
    corpora, tokenizer = prepare(folder)
    for name, (low, high) in ALIKE.items():
        yield name, alike(tokenizer, low, high)
    for name in CORPORA:
        texts: list[str] = []
        for unit in range(len(corpora[name])):
            texts += [sample.text for sample in corpora[name].read_unit(unit) if sample.text]
            if sum(map(len, texts)) > BLOCK:
                break
        yield name, Texts.of(tokenizer.encode_documents(texts), tokenizer.control)


def padding(filled: FilledRows) -> float:
    """The share of the rows' positions that is empty."""
    return 1 - sum(int(filled.segments.lengths[row].sum()) for row in filled.rows) / (len(filled.rows) * T)


def chopped(sizes: np.ndarray) -> int:
    """Cuts of concat-and-chop that documents of these sizes do not need anyway."""
    borders = np.arange(T, int(sizes.sum()), T)
    return len(np.setdiff1d(borders, np.cumsum(sizes))) - int(((sizes - 1) // T).sum())


class _Made(ExampleBuilder):
    """A builder whose segments are made already, so that packing can be timed alone."""

    made: Segments

    def segments(self) -> Segments:
        return self.made


def cells(texts: Texts, objectives: list[str], tokenizer: Tokenizer, rounds: int) -> list[str]:
    """What stands in a line of the table."""
    mixture = Mixture.parse({objective: {} for objective in objectives})
    arguments = (texts, texts.whole(), mixture, 0, T, tokenizer, 7, list(range(len(texts))))
    never = fill_rows(ExampleBuilder(*arguments), None)
    found = [f"{padding(never):.2%}"]
    for bound in BOUNDS:
        filled = fill_rows(ExampleBuilder(*arguments), bound)
        beyond = "!" if padding(filled) > bound + 1 / len(filled.rows) else ""
        found.append(f"{padding(filled):.2%}/{1000 * len(filled.cut) / len(texts):.0f}{beyond}")
    made = _Made(*arguments)
    made.made = never.segments
    works = [
        lambda: len(best_fit(never.segments.lengths, T)),
        lambda: len(fill_rows(made, BOUNDS[-1]).rows),
    ]
    times = [statistics.median(cpu_seconds(work)[0] for _ in range(rounds)) for work in works]
    found += [f"{1000 * chopped(texts.sizes[texts.sizes > 0]) / len(texts):.0f}", f"{len(never.rows)}"]
    return found + [f"{1e6 * seconds / len(never.segments):.2f}" for seconds in times]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench")
    arguments = parser.parse_args()
    tokenizer = prepare(arguments.folder)[1]
    titles = ["never", *(f"p {bound}" for bound in BOUNDS), "chop", "rows", "best fit µs", "p 0.01 µs"]
    print(f"{'documents':14}{'objectives':12}" + "".join(f"{title:>13}" for title in titles))
    for name, texts in blocks(arguments.folder):
        for which, objectives in MIXTURES.items():
            line = cells(texts, objectives, tokenizer, arguments.rounds)
            print(f"{name:14}{which:12}" + "".join(f"{cell:>13}" for cell in line), flush=True)


if __name__ == "__main__":
    main()
