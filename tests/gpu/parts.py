"""What is measured on a GPU, in the order in which it is: started by tests/gpu/run.sh, told to one page.

    parts.py     the order; for each part a process      no torch here: what crashes or hangs is its own loss
      budget.py    rows of the part come through a pipe, until it ends or the time is up
      page.py      each row goes into the page at once: a cut leaves what was measured

    python -m tests.gpu.parts [--minutes N] [PART …]      OUT: the folder of the page, docs by default

Exit code 0 when all of it was measured, 1 when a part failed, 3 when the time was up before the end.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.gpu.budget import FAILED, Part, measure
from tests.gpu.page import Page
from tests.support.sources import ROOT

PARTS: tuple[Part, ...] = (
    Part(
        "profile",
        "Where a step's time goes",
        "A step in bf16 under ZeRO 1 on packed segments, by kernel group (tests/gpu/kernel_groups.py). Idle: "
        "nothing ran.",
        ("micro-batches", "group", "ms", "share of the step", "kernels"),
        "tests.gpu.steps:profiled",
    ),
    Part(
        "step",
        "The step, and its MFU",
        "One micro-batch under ZeRO 1 in bf16. MFU: 6N + 12·L·d·T FLOPs a position (model/accounting.py), "
        "which counts every pair of a row; over visible pairs: the same with the mean number of keys that a "
        "position sees in place of T.",
        ("T", "variant", "ms", "tokens/s", "MFU", "keys seen", "MFU, visible pairs", "GiB", "first step, s"),
        "tests.gpu.steps:steps",
    ),
    Part(
        "mixed",
        "Mixed objectives against causal",
        "The same engine on two micro-batches of real text as the loader makes them, in turns: causal alone, "
        "and all objectives with equal weights. The vocabulary is that of the tests' tokenizer.",
        ("objectives", "ms", "over causal", "tokens/s", "positions with a target", "keys seen"),
        "tests.gpu.steps:mixed",
    ),
    Part(
        "attention",
        "Attention back to back",
        "Forward and backward in bf16, the calls of all layers in a row without waiting; masks were made "
        "before. Off: the largest difference to the first of the same rows, over the largest value.",
        ("T", "rows", "back end", "ms a layer", "over causal", "off"),
        "tests.gpu.attention:back_to_back",
    ),
    Part(
        "resume",
        "Pinned save and resume",
        "ZeRO 1 in bf16. Waits: the loop, for the copy into host memory, which is pinned on a GPU; the first "
        "save allocates it. Loaded right after, from the page cache. Then a step of both engines.",
        ("save", "GB", "waits, s", "GB/s", "published, s", "load, s", "GB/s, load", "resumed"),
        "tests.gpu.states:saved_and_loaded",
    ),
    Part(
        "layouts",
        "Layouts that one device can hold",
        "Each supported cell of launcher/engine/layout.py on one rank, against plain torch on the CPU in "
        "fp32, the whole batch at once: the largest difference over the steps.",
        ("layout", "loss, relative", "norm, relative", "weights", "allowed", "verdict"),
        "tests.gpu.states:layouts",
    ),
    Part(
        "tests",
        "The GPU tests",
        "`python -m pytest tests/gpu/test_gpu.py`.",
        ("test", "outcome", "s"),
        "tests.gpu.suite:suite",
    ),
)


def child(module: str, *arguments: str) -> list[str]:
    """The command of a Python process of this repository."""
    return [sys.executable, "-m", module, *arguments]


PATIENCE = 120.0
"""Seconds for the first import of torch and DeepSpeed."""


def machine() -> tuple[bool, str]:
    """Whether there is a GPU, and a line on the machine. SystemExit where torch or DeepSpeed are missing."""
    wrong = f"{sys.executable} cannot measure anything"
    try:
        asked = subprocess.run(
            child("tests.gpu.machine"), cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{wrong}: torch and DeepSpeed were not imported in {PATIENCE:.0f} s") from None
    if asked.returncode:
        raise SystemExit(f"{wrong}: see above, and tests/gpu/wheels.sh")
    told = json.loads(asked.stdout.splitlines()[-1])
    return told["gpu"], told["line"]


def carry_out(parts: Sequence[Part], deadline: float, page: Page) -> int:
    """Measure the parts one after the other until `deadline` (of time.monotonic()); the exit code."""
    for part in parts:
        page.begin(part)
        print(f"{part.name}: {part.title}", flush=True)
        command = child("tests.gpu.part", part.work)
        outcome = measure(command, deadline, lambda row, part=part: page.add(part, row))
        page.end(part, outcome)
        print(f"{part.name}: {outcome}", flush=True)
    missing = page.not_reached()
    print(f"{page.path}: {', '.join(missing) + ' not reached' if missing else 'all parts'}", flush=True)
    if any(one.state == FAILED for one in page.outcomes.values()):
        return 1
    return 3 if missing else 0


def minutes(text: str) -> float:
    """A number above 0, for argparse."""
    if not (number := float(text)) > 0:
        raise ValueError
    return number


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """The exit code of run.sh."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description="What a GPU makes of headrace.")
    parser.add_argument("--minutes", type=minutes, default=9.0, help="it stops itself then (default: 9)")
    parser.add_argument("--begun", type=float, default=time.time(), help=argparse.SUPPRESS)
    names = [part.name for part in parts]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"these alone, of {', '.join(names)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(names):
        parser.error(f"PART: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    deadline = time.monotonic() + 60 * options.minutes - (time.time() - options.begun)
    gpu, line = machine()
    if not gpu:  # tiny tensors: a second thread only waits
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(os.environ.get("OUT") or "docs")
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(folder, gpu, f"{line}. {options.minutes:g} minutes at the most.")
    return carry_out([part for part in parts if part.name in (options.parts or names)], deadline, page)


if __name__ == "__main__":
    sys.exit(main())
