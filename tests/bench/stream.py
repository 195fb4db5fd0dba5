"""What a resume of the stream costs at an early and at a late step, and what memory a long run holds.

    python -m tests.bench.stream [--rounds 31] [--folder F]
    python -m tests.bench.stream --minutes 60

The corpora and the tokenizer are those of tests/bench/data.py; all are in the plan, on all objectives.

- resume: CPU seconds of the process from the indexes on disk and a state to the first batch (T 1024, B 64, no
  threads), at step 10 and at step 100 000 in alternation. The late state is made by arithmetic: the streams
  stand in the blocks of step 10, thousands of epochs later, so that both sides read the same text.
- memory: one loader with two threads that open blocks of 64 KB within 2 MB for as long as asked; each minute
  prints the resident memory of the process, the bytes of open blocks, and how far the run is.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from data.plan.plan import History
from data.plan.positions import Position, StreamPositions
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus, open_corpus
from data.stream.block import Opener
from data.tokenization.tokenizer import Tokenizer
from objectives.registry import NAMES
from tests.bench.data import B, cpu_seconds, history, loader, prepare, spread

EARLY, LATE = 10, 100_000
SMALL_BLOCK_BYTES, MEMORY_BYTES = 64 << 10, 2 << 20


def plan_of(corpora: Mapping[str, Corpus], tokenizer: Tokenizer, block_bytes: int | None = None) -> History:
    """All corpora and all objectives, some of the text held out."""
    return history(corpora, tokenizer, {name: {} for name in NAMES}, block_bytes, held_out=0.01)


def late_state(
    plan: History, corpora: Mapping[str, Corpus], tokenizer: Tokenizer, early: StreamPositions
) -> StreamPositions:
    """A state of step LATE: as many times as many slots on, each stream at the next slot of the block that
    it stands in at step EARLY, as many rows into it."""
    opener = Opener(PlanSegments(plan), corpora, tokenizer)
    late: dict[tuple[str, int], Position] = {}
    for (name, number), (j, builds) in early.positions.items():
        streams = opener.plans[name].streams
        place = number + j * streams
        block = opener.orders[name].resolve(place)[1]
        limit = max(place, streams) * LATE // EARLY
        same = max(p for p in opener.orders[name].slots_of(block, limit) if p % streams == number)
        moved = tuple((row + (LATE - EARLY) * B, emitted) for row, emitted in builds)
        late[name, number] = same // streams, moved
    return StreamPositions(late)


def resumes(folder: Path, rounds: int) -> None:
    """Prints the CPU seconds from a state to the first batch, early and late."""
    corpora, tokenizer = prepare(folder)
    plan = plan_of(corpora, tokenizer)
    with loader(plan, corpora, tokenizer) as batches:
        for _ in range(EARLY):
            early = next(batches).state
    states = {EARLY: early, LATE: late_state(plan, corpora, tokenizer, early)}
    gc.freeze()

    def first_batch(step: int) -> int:
        opened = {name: open_corpus(name, [str(folder / f"{name}-*.tar")]) for name in corpora}
        with loader(plan, opened, tokenizer, step, states[step]) as batches:
            assert next(batches).first_row == step * B
            return batches.openings

    seconds: dict[int, list[float]] = {step: [] for step in states}
    openings: dict[int, int] = {}
    for number in range(rounds):
        for step in sorted(states, reverse=number % 2 == 1):
            cpu, openings[step] = cpu_seconds(partial(first_batch, step))
            seconds[step].append(cpu)
    for step, found in seconds.items():
        print(f"resume at step {step}: {spread(found)} s of CPU, {openings[step]} blocks opened")
    ratios = [at_late / at_early for at_early, at_late in zip(*seconds.values())]
    print(f"step {LATE} over step {EARLY}: {spread(ratios)}")


def resident() -> float:
    """VmRSS of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def memory(folder: Path, minutes: int) -> None:
    """Prints each minute what memory a loader holds."""
    corpora, tokenizer = prepare(folder)
    plan = plan_of(corpora, tokenizer, SMALL_BLOCK_BYTES)
    with loader(plan, corpora, tokenizer, threads=2, memory_bytes=MEMORY_BYTES) as batches:
        began, tokens, most = time.monotonic(), 0, 0
        for minute in range(1, minutes + 1):
            while time.monotonic() < began + 60 * minute:
                batch = next(batches)
                tokens += int(batch.source_tokens.sum())
                most = max(most, batches.held_bytes)
            held = f"{batches.held_bytes / 1e6:.2f} MB of blocks (at most {most / 1e6:.2f})"
            far = f"step {batch.first_row // B + 1}, {tokens / 1e6:.1f} M tokens, {batches.openings} openings"
            print(f"minute {minute}: {resident():.1f} MB resident, {held}, {far}", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--minutes", type=int, default=0, help="watch memory for so long instead")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench")
    arguments = parser.parse_args()
    if arguments.minutes:
        memory(arguments.folder, arguments.minutes)
    else:
        resumes(arguments.folder, arguments.rounds)


if __name__ == "__main__":
    main()
