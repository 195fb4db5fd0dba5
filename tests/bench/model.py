"""How near a training step comes to the machine's own matrix products, and what selecting targets saves.

    THP_MEM_ALLOC_ENABLE=1 python -m tests.bench.model [--threads N] [--rounds N] [--vocabulary V]
                                                       [--plain-allocator]

One decoder (d 384, 6 layers, 6 heads, SwiGLU 1024, vocabulary 8192 unless told, tied; micro-batch 8 × T 512),
one step = forward, backward, clipping, fused AdamW. In each round a causal step, an MLM step with 15 %
targets, the same MLM step as it is commonly written (logits of all positions, torch's cross-entropy with
ignore_index), and the matrix products of the causal step by themselves take turns.
Fraction = (6N + 12·L·d·T) FLOPs a token / seconds of the step, over FLOP/s of the products.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.distributed.allocator import keep_memory
from model.accounting import flops_per_token
from model.config import ModelConfig
from model.initialise import initialise
from model.transformer import Transformer

CONFIG = ModelConfig(layers=6, width=384, heads=6, mlp_width=1024, max_sequence_length=512)
ROWS, T = 8, 512


def batch(share: float, bidirectional: bool, vocabulary: int) -> dict[str, Tensor]:
    """Rows of one segment each; `share` of the positions have a target."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(T, dtype=torch.int32).expand(ROWS, T)
    tokens = torch.randint(vocabulary, (ROWS, T), generator=generator, dtype=torch.int32)
    asked = torch.rand(ROWS, T, generator=generator) < share
    return {
        "tokens": tokens,
        "targets": torch.where(asked, tokens.roll(-1, 1), -1),
        "weights": asked / asked.sum(),
        "start": torch.zeros_like(place),
        "bound": torch.full_like(place, T - 1) if bidirectional else place,
        "objective": torch.zeros_like(place, dtype=torch.int8),
        "corpus": torch.zeros_like(place, dtype=torch.int8),
    }


def own_loss(model: Transformer, rows: dict[str, Tensor]) -> Tensor:
    """The mean loss as headrace computes it."""
    return model(rows)[0]


def full_logits(model: Transformer, rows: dict[str, Tensor]) -> Tensor:
    """The mean loss by way of the logits of every position."""
    return F.cross_entropy(
        model.logits(rows).flatten(0, 1), rows["targets"].flatten().long(), ignore_index=-1
    )


def step(
    loss: Callable[[Transformer, dict[str, Tensor]], Tensor],
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    rows: dict[str, Tensor],
) -> None:
    """One whole step of a plain loop."""
    loss(model, rows).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def products(model: Transformer) -> tuple[Callable[[], None], float]:
    """Forward and both backward products of every matrix of the model, and their FLOPs."""
    matrices = [p.detach() for name, p in model.named_parameters() if p.dim() == 2 and "binary" not in name]
    inputs = {size: torch.randn(ROWS * T, size) for size in {s for w in matrices for s in w.shape}}

    def run() -> None:
        for weight in matrices:
            x, grad = inputs[weight.shape[1]], inputs[weight.shape[0]]
            torch.mm(x, weight.t())
            torch.mm(grad, weight)
            torch.mm(grad.t(), x)

    return run, sum(6.0 * ROWS * T * weight.numel() for weight in matrices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--plain-allocator", action="store_true", help="leave glibc as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vocabulary = arguments.vocabulary
    if not arguments.plain_allocator:
        keep_memory()
    model = Transformer(CONFIG, vocabulary, ("vocabulary", "binary"), 1)
    initialise(model, CONFIG, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run_products, flops = products(model)
    work: dict[str, Callable[[], None]] = {
        "causal": partial(step, own_loss, model, optimizer, batch(1.0, False, vocabulary)),
        "mlm": partial(step, own_loss, model, optimizer, batch(0.15, True, vocabulary)),
        "mlm, logits everywhere": partial(step, full_logits, model, optimizer, batch(0.15, True, vocabulary)),
        "products": run_products,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.rounds + 2):
        for name, run in work.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    seconds = {name: statistics.median(list_[2:]) for name, list_ in times.items()}
    rate = flops / seconds["products"]
    achieved = flops_per_token(CONFIG, vocabulary, T) * ROWS * T / seconds["causal"]
    print(
        json.dumps(
            {
                "threads": arguments.threads,
                "vocabulary": vocabulary,
                "sgemm_gflops": round(rate / 1e9, 1),
                "fraction": round(achieved / rate, 3),
                "mlm_speedup": round(seconds["mlm, logits everywhere"] / seconds["mlm"], 3),
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
