"""The formulas against the module itself, torch's FLOP counter, and the tensors that autograd keeps."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.accounting import flops_per_token, largest_parameter, memory, mfu, parameters, peak_flops
from model.config import ModelConfig
from model.initialise import initialise
from model.share import Share
from model.transformer import Transformer
from tests.support.packed_rows import HEADS, batch, layout

SMALL = ModelConfig(layers=3, width=64, heads=4, max_sequence_length=64)


@pytest.mark.parametrize("norm, placement", product(["rms", "layer"], ["pre", "post"]))
@pytest.mark.parametrize("positions, activation", product(["rope", "learned"], ["swiglu", "gelu"]))
@pytest.mark.parametrize("kv_heads, qk_norm, tied", product([None, 2], [False, True], [False, True]))
def test_parameters_are_those_of_the_module(
    norm: str,
    placement: str,
    positions: str,
    activation: str,
    kv_heads: int | None,
    qk_norm: bool,
    tied: bool,
) -> None:
    config = replace(
        SMALL,
        norm=norm,
        norm_placement=placement,
        positions=positions,
        activation=activation,
        kv_heads=kv_heads,
        qk_norm=qk_norm,
        tie_embeddings=tied,
    )
    with torch.device("meta"):
        model = Transformer(config, 1000, HEADS, 1)
    assert parameters(config, 1000) == sum(p.numel() for p in model.parameters())
    for vocabulary in (1000, 10):  # of the table, of a matrix
        with torch.device("meta"):
            model = Transformer(config, vocabulary, HEADS, 1)
        assert largest_parameter(config, vocabulary) == max(p.numel() for p in model.parameters())
    if config.num_kv_heads % 2 == 0:
        with torch.device("meta"):
            model = Transformer(config, 1000, HEADS, 1, share=Share(1, 2))
        assert parameters(config, 1000, shares=2) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "choices", [{}, {"activation": "gelu", "norm": "layer", "kv_heads": 1, "tie_embeddings": False}]
)
def test_flops_are_those_that_torch_counts(choices: dict) -> None:
    """With a target everywhere; 6N + 12LdT leaves out nothing that the counter knows."""
    # the counter knows addmm, but not addmm_
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    config = replace(SMALL, attention="dense", **choices)
    model = Transformer(config, 1000, HEADS, 1)
    initialise(model, config, 1)
    rows = batch(*layout([[(64, "full")]] * 2, 64), 1000)
    rows["targets"], rows["objective"] = rows["tokens"], torch.zeros_like(rows["objective"])
    rows["corpus"] = torch.zeros_like(rows["corpus"])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss, _ = model(rows)
        loss.backward()
    formula = 2 * 64 * flops_per_token(config, 1000, 64)
    told = 2 * (2 * 64) * len(HEADS)  # the losses added up by objective, for the eye only
    assert counter.get_total_flops() - told == pytest.approx(formula, rel=1e-6)


def test_targets_that_are_few_cost_less() -> None:
    full, few = (flops_per_token(SMALL, 1000, 64, targets=share) for share in (1.0, 0.15))
    assert full - few == pytest.approx(6 * 0.85 * 1000 * 64)


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"activation": "gelu", "norm": "layer", "positions": "learned"},
        {"kv_heads": 2, "attention": "dense"},
    ],
    ids=str,
)
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
@pytest.mark.parametrize("shares", [1, 2])
def test_activations_are_those_that_autograd_keeps(
    choices: dict, checkpoint_blocks: bool, shares: int
) -> None:
    """Bytes of the tensors kept for the backward pass beside weights, the head's own apart: within 10 %."""
    config = replace(SMALL, layers=6, **choices)
    share = Share(0, shares)
    model = Transformer(config, 1000, HEADS, 1, checkpoint_blocks=checkpoint_blocks, share=share)
    initialise(model, config, 1)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    start, bound = layout([[(24, "causal"), (40, "full")]] * 4, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = model.hidden({"tokens": torch.zeros_like(start), "start": start, "bound": bound})
    use = memory(config, 1000, rows=4, length=64, checkpoint_blocks=checkpoint_blocks, shares=shares)
    once = use.activations - (
        memory(config, 1000, rows=4, length=64, shares=shares).activations / 6 if checkpoint_blocks else 0
    )
    assert hidden.requires_grad
    assert sum(kept.values()) == pytest.approx(once, rel=0.1)


def test_memory_of_weights_and_optimizer_follows_the_bytes_that_are_asked() -> None:
    use = memory(SMALL, 1000, rows=1, length=64, weight=2, gradient=4, optimizer=12 / 8)
    n = parameters(SMALL, 1000)
    assert (use.weights, use.gradients, use.optimizer) == (2 * n, 4 * n, 1.5 * n)
    assert use.total > 7.5 * n


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("AMD EPYC", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_peaks_are_dense_and_no_ratio_is_given_for_an_unknown_device(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
    assert mfu(1e14, name, devices=2) == (None if peak is None else 1e14 / (2 * peak))
