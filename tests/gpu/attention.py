"""The part about attention: back ends in turns, each with the calls of all layers in a row.

Nothing waits between the calls, so what the host takes to start one is hidden as it is in a step. Gradients
are asked for and not summed up. A back end that is not there, or refuses, is a row that says so.
"""

import importlib
import inspect
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.attention import BACK_ENDS, Kernel
from tests.gpu.varlen import Varlen, VarlenCall, varlen_kernel
from tests.gpu.workloads import DEVICE, GPU, SIZE, fresh_device, packed, timed

Made = Callable[[Tensor, Tensor], Kernel]
BASE = "causal"


class Absent(Exception):
    """Why a back end cannot be had here."""


def torch_varlen(start: Tensor, bound: Tensor) -> Kernel:
    """torch.nn.attention.varlen, FlashAttention 2 as torch brings it. Releases spell "causal" differently."""
    try:
        attend = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ModuleNotFoundError:
        raise Absent(f"not installed: torch {torch.__version__} has no torch.nn.attention.varlen") from None
    windowed = "window_size" in inspect.signature(attend).parameters

    def call(q: Tensor, k: Tensor, v: Tensor, one: VarlenCall) -> Tensor:
        causal: dict[str, Any] = {"window_size": (-1, 0)} if windowed else {"is_causal": True}
        ends = one.query_ends, one.key_ends, one.most_queries, one.most_keys
        return attend(q, k, v, *ends, **(causal if one.causal else {}))

    return _on_gpu(call, start, bound)


def flash_3(start: Tensor, bound: Tensor) -> Kernel:
    """FlashAttention 3, as the package flash_attn_interface has it."""
    try:
        attend = importlib.import_module("flash_attn_interface").flash_attn_varlen_func
    except ModuleNotFoundError:
        raise Absent("not installed: no package flash_attn_interface") from None

    def call(q: Tensor, k: Tensor, v: Tensor, one: VarlenCall) -> Tensor:
        ends = one.query_ends, one.key_ends, one.most_queries, one.most_keys
        out = attend(q, k, v, *ends, causal=one.causal)
        return out[0] if isinstance(out, tuple) else out  # releases before 2.8 give the sums as well

    return _on_gpu(call, start, bound)


def cudnn(back_end: str, start: Tensor, bound: Tensor) -> Kernel:
    """torch's SDPA held to cuDNN, with a mask or causal."""
    if not GPU:
        raise Absent("needs CUDA")
    kernel = BACK_ENDS[back_end](start, bound)

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return kernel(q, k, v, dropout)

    return attend


def _on_gpu(call: Varlen, start: Tensor, bound: Tensor) -> Kernel:
    if not GPU:
        raise Absent("needs CUDA")
    return varlen_kernel(call, start, bound)


MADE: dict[str, dict[str, Made]] = {
    "whole": {
        BASE: BACK_ENDS["causal"],
        "cuDNN": partial(cudnn, "causal"),
        "flex": BACK_ENDS["flex"],
    },
    "packed": {
        "dense": BACK_ENDS["dense"],
        "segments": BACK_ENDS["segments"],
        "flex": BACK_ENDS["flex"],
        "torch's varlen": torch_varlen,
        "cuDNN, masked": partial(cudnn, "dense"),
        "FA3 varlen": flash_3,
    },
}
"""Rows → back end → its maker. `whole`: each row one causal segment. The first of each is what the others
must agree with."""


def refusal(error: Exception) -> str:
    """A cell of the table."""
    if isinstance(error, Absent):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"refused: {(str(error).strip() or type(error).__name__).splitlines()[0][:120]}"


def passes(kernel: Kernel, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The output and the three gradients of one layer."""
    *inputs, slope = tensors
    out = kernel(*inputs, 0.0)
    return out.detach(), *torch.autograd.grad(out, inputs, slope)


def layers(kernel: Kernel, tensors: list[Tensor]) -> None:
    """All layers of a step."""
    for _ in range(SIZE.layers):
        passes(kernel, tensors)


def off(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest difference over the largest value, of the worst of the four."""
    return max(
        float((x.float() - y.float()).abs().max() / y.float().abs().max()) for x, y in zip(found, expected)
    )


def back_to_back(tell: Callable[..., None]) -> None:
    """Rows for each T: first what is measured, in turns, then what is not there."""
    for length in SIZE.attention_lengths:
        fresh_device()
        rows = SIZE.positions // length
        place = torch.arange(length, dtype=torch.int32, device=DEVICE).repeat(rows, 1)
        arrays = {"whole": (torch.zeros_like(place), place), "packed": packed(length)}
        shape = (rows, length, SIZE.heads, SIZE.head_width)
        torch.manual_seed(0)
        tensors = [
            torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=i < 3) for i in range(4)
        ]
        kernels: dict[tuple[str, str], Kernel] = {}
        differences: dict[tuple[str, str], float] = {}
        refused: dict[tuple[str, str], str] = {}
        for kind, made in MADE.items():
            expected: tuple[Tensor, ...] = ()
            for name, make in made.items():
                try:
                    kernel = make(*arrays[kind])
                    found = passes(kernel, tensors)
                except (Absent, RuntimeError, ValueError) as error:
                    refused[kind, name] = refusal(error)
                    continue
                expected = expected or found
                kernels[kind, name], differences[kind, name] = kernel, off(found, expected)
        spent: dict[tuple[str, str], list[float]] = {key: [] for key in kernels}
        for _ in range(SIZE.rounds + 1):
            for key, kernel in kernels.items():
                spent[key].append(timed(partial(layers, kernel, tensors)) / SIZE.layers)
        seconds = {key: statistics.median(found[1:]) for key, found in spent.items()}
        for (kind, name), value in seconds.items():
            ratio = value / seconds["whole", BASE]
            tell(length, kind, name, f"{1e3 * value:.3f}", f"{ratio:.2f}", f"{differences[kind, name]:.1e}")
        for (kind, name), words in refused.items():
            tell(length, kind, name, words, "", "")
