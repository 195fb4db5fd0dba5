"""Parts about what the engine holds: saved and loaded through pinned memory; the same under every layout."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from launcher.checkpoint.catalog import newest
from launcher.checkpoint.format import KINDS
from launcher.checkpoint.load import load
from launcher.engine.engine import Engine
from launcher.engine.layout import LayoutConfig
from tests.gpu.workloads import GPU, SIZE, engine_of, one_rank, one_step, packed_rows, timed
from tests.support.engine_cases import checkpoints, reference, run_setting, varied
from tests.support.layouts import WHOLE, keys

SAVED_LAYERS, SAVED_HEADS = (12, 6) if GPU else (SIZE.layers, SIZE.heads)
"""Of the engine that is saved: 12 layers of width 768, so that a slow disk does not take all the time."""


def saved_and_loaded(tell: Callable[..., None]) -> None:
    """A row for the first save, which allocates the buffer, and one for the second, which is loaded. Bit for
    bit: masters and moments after the load, and after one step more. AssertionError where they differ."""
    length = SIZE.step_lengths[0]
    rows = packed_rows(length)
    layout = LayoutConfig(zero=1, micro_batch=len(rows), precision="bf16")
    opened = partial(
        engine_of,
        SIZE.model(length, layers=SAVED_LAYERS, width=SAVED_HEADS * SIZE.head_width, heads=SAVED_HEADS),
        layout,
    )
    with tempfile.TemporaryDirectory() as folder, one_rank() as world, opened() as engine:
        saves = checkpoints(engine, Path(folder) / "checkpoints")
        figures = []
        for step in (1, 2):
            one_step(engine, [rows], step)
            waited = timed(partial(saves.save, engine, step, {"step": step}))
            saves.finish()
            (one,) = saves.published()
            size = one.bytes / 1e9
            figures.append((f"{size:.3f}", f"{waited:.3f}", f"{size / waited:.1f}", f"{one.seconds:.2f}"))
        tell("first", *figures[0], "", "", "")
        stored, passed_over = newest(Path(folder) / "checkpoints")
        assert stored is not None, passed_over
        with opened() as other:
            loaded = timed(partial(load, world, stored, other.state))
            loaded_equal = equal(engine, other)
            losses = [one_step(each, [rows], 3) for each in (engine, other)]
            after = losses[0] == losses[1] and equal(engine, other)
        verdict = "bit-equal, and after a step more" if loaded_equal and after else "DIFFERS"
        tell("second", *figures[1], f"{loaded:.2f}", f"{size / loaded:.1f}", verdict)
        assert loaded_equal, "what was loaded is not what was saved"
        assert after, "the resumed engine made another step"


def equal(one: Engine, other: Engine) -> bool:
    """Masters and moments, bit for bit."""
    flats = range(len(one.state.flats))
    return all(
        torch.equal(one.state.tensor(f, kind), other.state.tensor(f, kind)) for f in flats for kind in KINDS
    )


ALLOWED = {"fp32": (2e-5, 2e-4, 2e-5), "bf16": (2e-2, 2e-2, 8e-2)}
"""Precision → the largest relative differences of a loss and of a gradient norm, and the largest of a weight.
fp32: rounding in another order, which four steps of Adam carry on. bf16: the rounding of weights and
activations; where a gradient is little more than that, Adam may go either way, four steps of 1e-2 at most."""


def layouts(tell: Callable[..., None]) -> None:
    """A row for each supported cell. AssertionError at the end where one is further off than is allowed."""
    expected = reference(varied())
    wrong = []
    with one_rank() as world:
        for cell in WHOLE:
            losses, norms, weights = run_setting(world, varied(**keys(cell)))
            found = [
                float(np.max(np.abs(np.array(got) / np.array(exact) - 1)))
                for got, exact in (
                    (np.sum(losses, axis=1), np.sum(expected[0], axis=1)),
                    (norms, expected[1]),
                )
            ]
            weight = max(float(np.abs(weights[name] - exact).max()) for name, exact in expected[2].items())
            allowed = ALLOWED[cell.precision]
            agrees = all(value <= limit for value, limit in zip((*found, weight), allowed, strict=True))
            wrong += [] if agrees else [str(cell)]
            differences = (f"{value:.1e}" for value in (*found, weight))
            tell(cell, *differences, ", ".join(map(str, allowed)), "agrees" if agrees else "DIFFERS")
    assert not wrong, wrong
