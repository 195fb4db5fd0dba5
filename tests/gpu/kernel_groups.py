"""Where the time of a step goes: what the profiler saw, in seven groups by the names of kernels.

    forward, backward, reduction           judged        clip, update, cast, zero
    ──┤gemm├┤attention├┤elementwise├┤copy├───┼──────────┤optimizer├──▶

On a GPU these are its kernels; on a CPU torch's operators, each by the time that is its own. An update is
made of ordinary elementwise kernels, so it is told by when it runs: whatever begins after the gradients were
judged (Engine.step) is the optimizer's. The summing up of fp32 gradients and their norm, before, are not.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

JUDGED = "gradients judged"
"""The mark in the profile after which all is the optimizer's."""
OPTIMIZER, OTHER, IDLE = "optimizer", "other", "idle"
GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (group, re.compile(pattern, re.IGNORECASE))
    for group, pattern in (
        ("nccl", r"nccl|c10d::|gloo"),
        ("attention", r"flash|fmha|sdpa|scaled_dot_product|flex_attention|triton_tem|FlashAttn"),
        (OPTIMIZER, r"multi_tensor_apply|adam|_foreach_"),
        ("gemm", r"gemm|gemv|nvjet|cutlass|cublas|xmma|wgmma|splitk|aten::(add|b|badd)?mm$|aten::addmv$"),
        (
            "copy",
            r"memcpy|memset|copy|FillFunctor|CatArray|aten::(fill_|zero_|zeros|cat|clone|split|_to_copy)",
        ),
        (
            "elementwise and norm",
            r"elementwise|reduce_kernel|softmax|layer_?norm|rms_?norm|triton_(poi|red|per)_|aten::_?(add|sub|mul|"
            r"div|neg|exp|log|pow|sqrt|rsqrt|sum|mean|silu|gelu|sigmoid|where|clamp|linalg_vector_norm|fused_rms)",
        ),
    )
)
"""Group → its names; the first that is found decides. What no group knows (index_select, nonzero, the
embedding's scatter) is `other`."""


class Ran(NamedTuple):
    """A kernel or an operator that ran, in µs."""

    name: str
    begun: float
    own: float


def group_of(name: str) -> str:
    """The group of a kernel's name."""
    return next((group for group, pattern in GROUPS if pattern.search(name)), OTHER)


def by_group(ran: Iterable[Ran], judged: float) -> dict[str, tuple[float, int]]:
    """Group → µs and how many, the dearest first. judged: when the update began, in µs."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in ran:
        found[OPTIMIZER if one.begun >= judged else group_of(one.name)].append(one.own)
    return dict(
        sorted(((group, (sum(own), len(own))) for group, own in found.items()), key=lambda x: -x[1][0])
    )


def seen_by_profiler(work: Callable[[], Any]) -> tuple[list[Ran], float]:
    """What ran while `work` did, and when it entered `record_function(JUDGED)`, in µs of the same clock."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as seen:
        work()
        if gpu:
            torch.cuda.synchronize()
    wanted = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
    events = seen.events()
    ran = [
        Ran(
            event.name,
            event.time_range.start,
            event.time_range.elapsed_us() if gpu else event.self_cpu_time_total,
        )
        for event in events
        if event.device_type == wanted and not event.is_user_annotation and (gpu or "::" in event.name)
    ]
    (judged,) = (event.time_range.start for event in events if event.name == JUDGED and not _on_gpu(event))
    return ran, judged


def _on_gpu(event: Any) -> bool:
    return event.device_type == torch.autograd.DeviceType.CUDA


def mark_judged() -> None:
    """Put the mark into a profile that is being taken."""
    with record_function(JUDGED):
        pass
