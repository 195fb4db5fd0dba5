"""Parts about whole steps of the engine: where their time goes, how quick they are, what a mixture costs.

A variant that does not fit into the GPU's memory is a row that says so; the others go on.
"""

import statistics
from collections.abc import Callable
from functools import partial

from torch import OutOfMemoryError

from launcher.engine.layout import LayoutConfig
from model.accounting import flops_per_token, mfu
from model.attention_context import back_end
from model.config import ModelConfig
from objectives.registry import HEADS, NAMES
from tests.gpu.kernel_groups import IDLE, by_group, mark_judged, seen_by_profiler
from tests.gpu.text_rows import text_micro_batches, vocabulary_of_text
from tests.gpu.workloads import (
    GPU,
    SIZE,
    Rows,
    engine_of,
    keys_seen,
    one_rank,
    one_step,
    packed_rows,
    peak_memory,
    timed,
)
from tests.support.engine_cases import Ruling, agree

Tell = Callable[..., None]
"""tell(cell, …): a row of the part's table."""


def layout_of(rows: Rows, *, compiled: bool = False) -> LayoutConfig:
    """ZeRO 1 in bf16, with micro-batches of as many rows."""
    return LayoutConfig(zero=1, micro_batch=len(rows), precision="bf16", compile=compiled)


def profiled(tell: Tell) -> None:
    """Rows for 1 and for 4 micro-batches, by group; then what of the step no kernel ran in."""
    length = SIZE.step_lengths[0]
    rows = packed_rows(length)

    def judge(sums: object, norm: float) -> Ruling:
        mark_judged()
        return agree(sums, norm)  # type: ignore[arg-type]

    with one_rank(), engine_of(SIZE.model(length), layout_of(rows)) as engine:
        for count in (1, 4):
            step = partial(one_step, engine, [rows] * count, judge=judge)
            for _ in range(3):
                step()
            bare = statistics.median(timed(step) for _ in range(SIZE.rounds))
            ran, judged = seen_by_profiler(step)
            groups = by_group(ran, judged)
            for group, (spent, kernels) in groups.items():
                tell(count, group, f"{spent / 1e3:.2f}", f"{spent / 1e6 / bare:.1%}", kernels)
            idle = bare - sum(spent for spent, _ in groups.values()) / 1e6
            tell(count, IDLE, f"{1e3 * idle:.2f}", f"{idle / bare:.1%}", "")
            tell(count, "the step, unprofiled", f"{1e3 * bare:.2f}", "100.0%", len(ran))


def rate(flops_per_second: float, device: str) -> str:
    """MFU, or what was reached where the device's peak is not known."""
    share = mfu(flops_per_second, device)
    return f"{flops_per_second / 1e9:.1f} GFLOP/s" if share is None else f"{share:.3f}"


def variants(length: int) -> dict[str, tuple[ModelConfig, bool]]:
    """Name → model, and whether its blocks are compiled. Compiled once, for it takes long."""
    model = partial(SIZE.model, length)
    found = {"dense": (model(attention="dense"), False)}
    if GPU:
        found["flex"] = model(attention="flex"), False
        if length == SIZE.step_lengths[0]:
            found["flex, loss_chunk 4096, compiled"] = model(attention="flex", loss_chunk=4096), True
    else:
        found["segments (flex needs CUDA)"] = model(attention="segments"), False
    return found


def steps(tell: Tell) -> None:
    """A row for each T and variant. AssertionError where their losses differ by more than bf16 explains."""
    losses: dict[int, list[float]] = {}
    with one_rank():
        for length in SIZE.step_lengths:
            rows = packed_rows(length)
            for name, (config, compiled) in variants(length).items():
                try:
                    loss = _told_step(tell, config, rows, name, compiled=compiled)
                except OutOfMemoryError:
                    tell(length, name, "out of memory", *[""] * 6)
                else:
                    losses.setdefault(length, []).append(loss)
    for length, found in losses.items():
        assert max(found) - min(found) < 2e-2 * found[0], (length, found)


def _told_step(tell: Tell, config: ModelConfig, rows: Rows, name: str, *, compiled: bool) -> float:
    """The loss after the steps that were measured. A function of its own: its engine goes with it."""
    with engine_of(config, layout_of(rows, compiled=compiled)) as engine:
        step = partial(one_step, engine, [rows])
        first, *found = (timed(step) for _ in range(SIZE.rounds + 4))
        seconds, seen = statistics.median(found[3:]), keys_seen(rows)
        every, visible = (
            rate(
                flops_per_token(config, SIZE.vocabulary, keys) * rows.tokens.size / seconds,
                engine.device_name,
            )
            for keys in (rows.length, seen)
        )
        speed = f"{1e3 * seconds:.1f}", f"{rows.tokens.size / seconds:.0f}"
        tell(rows.length, name, *speed, every, f"{seen:.0f}", visible, peak_memory(), f"{first:.1f}")
        return step()


def mixed(tell: Tell) -> None:
    """Two rows: causal, and all objectives. In turns, on one engine."""
    length = SIZE.step_lengths[0]
    mixtures = {"causal": ("causal",), "all of them": NAMES}
    batches = {name: text_micro_batches(names, length) for name, names in mixtures.items()}
    config = SIZE.model(length)
    with (
        one_rank(),
        engine_of(config, layout_of(batches["causal"][0]), vocabulary_of_text(), HEADS, 2) as engine,
    ):
        spent: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(SIZE.rounds + 3):
            for name, micro_batches in batches.items():
                spent[name].append(timed(partial(one_step, engine, micro_batches)))
    seconds = {name: statistics.median(found[3:]) for name, found in spent.items()}
    for name, micro_batches in batches.items():
        rows = Rows.join(micro_batches)
        tell(
            f"{name} ({back_end(config, length, gpu=GPU)})",
            f"{1e3 * seconds[name]:.1f}",
            f"{seconds[name] / seconds['causal']:.3f}",
            f"{rows.tokens.size / seconds[name]:.0f}",
            f"{(rows.targets >= 0).mean():.3f}",
            f"{keys_seen(rows):.0f}",
        )
