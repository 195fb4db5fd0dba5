"""The model as a whole: its losses and gradients against plain formulas, its choices, its initial weights."""

import ast
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import CHOICES, ModelConfig
from model.initialise import init_parameter, initialise
from model.transformer import Transformer
from tests.support.packed_rows import HEADS, MIXED, batch, layout
from tests.support.sources import source_files

VOCABULARY, CORPORA, T = 61, 2, 32
SMALL = ModelConfig(layers=2, width=32, heads=4, mlp_width=48, max_sequence_length=T)


def build(config: ModelConfig = SMALL, **options: bool) -> Transformer:
    model = Transformer(config, VOCABULARY, HEADS, CORPORA, **options)
    initialise(model, config, 1)
    return model


def slope(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def gradients(model: Transformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: slope(p).clone() for name, p in model.named_parameters()}


def plain_loss(model: Transformer, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, sums and correct counts by way of all logits and one target at a time."""
    hidden = model.hidden(rows)
    words = model.head.logits(hidden)
    pairs = model.head.binary(model.head.norm(hidden))
    loss, sums, correct = torch.zeros(()), torch.zeros(len(HEADS), CORPORA), torch.zeros(len(HEADS), CORPORA)
    for r, i in (rows["targets"] >= 0).nonzero().tolist():
        o, c = int(rows["objective"][r, i]), int(rows["corpus"][r, i])
        logits = (pairs if HEADS[o] == "binary" else words)[r, i]
        target = rows["targets"][r, i].long()
        term = rows["weights"][r, i] * F.cross_entropy(logits, target)
        loss = loss + term
        if HEADS[o] != "binary":
            loss = loss + model.config.z_loss * rows["weights"][r, i] * logits.logsumexp(0) ** 2
        sums[o, c] += term.detach()
        correct[o, c] += logits.argmax() == target
    return loss, sums, correct


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_loss_sums_and_gradients_are_those_of_the_plain_formula(tied: bool, chunk: int) -> None:
    model = build(replace(SMALL, tie_embeddings=tied, loss_chunk=chunk, z_loss=1e-2))
    rows = batch(*layout(MIXED, T), VOCABULARY)
    loss, sums = model(rows)
    expected, expected_sums, expected_correct = plain_loss(model, rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(sums, expected_sums)
    got, wanted = gradients(model, 3 * loss), gradients(model, 3 * expected)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        again, sums_again, correct = model(rows, accuracy=True)
    assert torch.equal(again, loss.detach())
    assert torch.equal(sums_again, sums)
    assert torch.equal(correct, expected_correct)


def test_sums_are_the_terms_of_the_loss() -> None:
    loss, sums = build()(batch(*layout(MIXED, T), VOCABULARY))
    assert not sums.requires_grad
    torch.testing.assert_close(loss.detach(), sums.sum())


@pytest.mark.parametrize("missing", ["all", "vocabulary", "binary"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_a_gradient_whatever_the_targets(missing: str, tied: bool) -> None:
    model = build(replace(SMALL, tie_embeddings=tied, norm="layer", qk_norm=True, positions="learned"))
    rows = batch(*layout(MIXED, T), VOCABULARY)
    pair = rows["objective"] == HEADS.index("binary")
    gone = {"all": torch.ones_like(pair), "vocabulary": ~pair, "binary": pair}[missing]
    rows["targets"] = torch.where(gone, -1, rows["targets"])
    loss, sums = model(rows)
    found = gradients(model, loss)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in found.values())
    assert found["layers.3.binary.weight"].any() == (missing == "vocabulary")
    if missing == "all":
        assert not any(g.any() for g in found.values())
        assert not sums.any()


CHOSEN = [
    {key: value} for key, values in CHOICES.items() for value in values if value not in ("causal", "flex")
] + [
    {"kv_heads": 1},
    {"kv_heads": 2},
    {"qk_norm": True},
    {"tie_embeddings": False},
    {"mlp_width": None},
    {"dropout": 0.1},
]


@pytest.mark.parametrize("choice", CHOSEN, ids=str)
def test_every_choice_learns_a_batch_by_heart(choice: dict) -> None:
    model = build(replace(SMALL, **choice))
    rows = batch(*layout(MIXED, T), VOCABULARY)
    rows["weights"] = rows["weights"] / rows["weights"].sum()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    losses = []
    for _ in range(25):
        loss, _ = model(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(3.0, abs=0.8)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointed_blocks_give_bit_identical_gradients(dropout: float) -> None:
    config = replace(SMALL, dropout=dropout, attention_dropout=dropout)
    rows = batch(*layout(MIXED, T), VOCABULARY)
    found = []
    for checkpoint_blocks in (False, True):
        model = build(config, checkpoint_blocks=checkpoint_blocks)
        torch.manual_seed(5)
        loss, _ = model(rows)
        found.append(gradients(model, loss) | {"loss": loss.detach()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_dropout_acts_in_training_only() -> None:
    model = build(replace(SMALL, dropout=0.3, attention_dropout=0.3))
    rows = batch(*layout(MIXED, T), VOCABULARY)
    assert not torch.equal(model(rows)[0], model(rows)[0])
    model.eval()
    assert torch.equal(model(rows)[0], model(rows)[0])


def test_bf16_agrees_with_fp32_and_keeps_sums_in_fp32() -> None:
    model = build()
    rows = batch(*layout(MIXED[:2], T), VOCABULARY)
    exact, _ = model(rows)
    model.bfloat16()
    low, sums = model(rows)
    low.backward()
    assert all(slope(p).dtype == torch.bfloat16 for p in model.parameters())
    assert sums.dtype == low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=1e-2, atol=0)


def test_names_are_stable() -> None:
    names = [name for name, _ in build(replace(SMALL, layers=1, qk_norm=True)).named_parameters()]
    assert names == [
        "layers.0.table.weight",
        "layers.1.attention_norm.weight",
        "layers.1.attention.qkv.weight",
        "layers.1.attention.out.weight",
        "layers.1.attention.q_norm.weight",
        "layers.1.attention.k_norm.weight",
        "layers.1.mlp_norm.weight",
        "layers.1.mlp.up.weight",
        "layers.1.mlp.down.weight",
        "layers.2.norm.weight",
        "layers.2.binary.weight",
    ]


def test_initial_weights_follow_from_name_and_seed() -> None:
    model = build()
    for name, parameter in reversed(list(model.named_parameters())):
        assert torch.equal(parameter, init_parameter(name, parameter.shape, SMALL, seed=1))
    name, shape = "layers.1.mlp.down.weight", (256, 512)
    drawn = init_parameter(name, shape, SMALL, seed=1)
    assert not torch.equal(drawn, init_parameter(name, shape, SMALL, seed=2))
    assert not torch.equal(drawn, init_parameter(name.replace("1", "2"), shape, SMALL, seed=1))
    assert drawn.std().item() == pytest.approx(0.02 / 2, rel=0.02)
    plain = replace(SMALL, initialisation="plain")
    assert init_parameter(name, shape, plain, seed=1).std().item() == pytest.approx(0.02, rel=0.02)


def test_a_model_without_initialisation_shows_itself() -> None:
    loss, _ = Transformer(SMALL, VOCABULARY, HEADS, CORPORA)(batch(*layout(MIXED, T), VOCABULARY))
    assert loss.isnan()


def test_a_model_is_built_without_memory_on_the_meta_device() -> None:
    huge = ModelConfig(layers=96, width=12288, heads=96)
    with torch.device("meta"):
        model = Transformer(huge, 50000, HEADS, CORPORA)
    assert sum(p.numel() for p in model.parameters()) > 10**11


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"heads": 5}, "heads: width 32 is not a multiple of 5 heads"),
        ({"kv_heads": 3}, "kv_heads: 4 heads are not a multiple of 3 kv_heads"),
        ({"norm": "batch"}, "norm: expected one of rms, layer, got 'batch'"),
        ({"stack": "encoder-decoder"}, "stack: expected one of single, got 'encoder-decoder'"),
        ({"width": 12}, "heads: rope needs an even head width, got 12/4"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1, got 1.0"),
        ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
        ({"attention": "flex", "attention_dropout": 0.1}, "attention: flex has no dropout"),
    ],
)
def test_impossible_choices_are_refused_in_words(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **settings)


def test_the_room_imports_torch_and_numpy_and_knows_nothing_of_parallelism() -> None:
    allowed = {"torch", "numpy", "model"} | set(sys.stdlib_module_names)
    words = ("deepspeed", "zero_", "data_parallel", "world_size", "all_reduce", "distributed")
    for path in source_files("model"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path
        assert not [word for word in words if word in source.lower()], path
