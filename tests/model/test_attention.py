"""Attention against the rule itself, written as loops in float64, and segments that never see each other."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.attention import BACK_ENDS, attention, auto, block_mask, rule, visible
from model.config import ModelConfig
from model.initialise import initialise
from model.segments import groups
from model.transformer import Transformer
from tests.support.packed_rows import HEADS, MIXED, SHAPES, batch, layout

LENGTH = 32


def slow(q: Tensor, k: Tensor, v: Tensor, start: Tensor, bound: Tensor) -> Tensor:
    """Position by position: i attends to j iff start[i] ≤ j ≤ bound[i]."""
    share = q.shape[2] // k.shape[2]
    out = []
    for r in range(q.shape[0]):
        for i in range(q.shape[1]):
            sees = [j for j in range(q.shape[1]) if start[r, i] <= j <= bound[r, i]]
            for h in range(q.shape[2]):
                scores = torch.stack([q[r, i, h] @ k[r, j, h // share] for j in sees]) / math.sqrt(q.shape[3])
                chances = torch.exp(scores - scores.max())
                out.append((chances / chances.sum()) @ torch.stack([v[r, j, h // share] for j in sees]))
    return torch.stack(out).view(q.shape)


@pytest.mark.parametrize(
    "back_end, rows",
    [
        *(("dense", MIXED), ("segments", MIXED), ("auto", MIXED), ("causal", [[(LENGTH, "causal")]] * 2)),
        *(("segments", [[]]), ("auto", [[]])),  # padding alone: each position sees itself
    ],
)
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_back_ends_follow_the_rule_forward_and_backward(back_end: str, rows: list, num_kv_heads: int) -> None:
    torch.manual_seed(0)
    start, bound = layout(rows, LENGTH)
    shapes = [(len(rows), LENGTH, heads, 8) for heads in (4, num_kv_heads, num_kv_heads)]
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    quick = [x.detach().float().requires_grad_() for x in exact]
    expected = slow(exact[0], exact[1], exact[2], start, bound)
    got = BACK_ENDS[back_end](start, bound)(quick[0], quick[1], quick[2], 0.0)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-6)
    slope = torch.randn_like(expected)
    expected.backward(slope)
    got.backward(slope.float())
    for x, y in zip(quick, exact):
        assert x.grad is not None
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=0, atol=4e-6)


def test_causal_refuses_packed_rows_in_words() -> None:
    with pytest.raises(ValueError, match="attention: causal needs rows of one causal segment"):
        BACK_ENDS["causal"](*layout(MIXED, LENGTH))


def test_flex_refuses_the_cpu_in_words() -> None:
    with pytest.raises(ValueError, match="attention: flex needs a CUDA device, not cpu"):
        BACK_ENDS["flex"](*layout(MIXED, LENGTH))


@pytest.mark.parametrize("length", [32, 300, 640])
def test_flex_is_given_the_same_rule(length: int) -> None:
    start, bound = layout([[(length // 4, shape) for shape in SHAPES], [(length, "causal")]], length)
    lengths = len(start), 1, length, length
    expected = create_block_mask(rule(start, bound), *lengths, "cpu")
    got = block_mask(start, bound)
    assert torch.equal(got.to_dense(), expected.to_dense())
    assert torch.equal(seen_throughout(got), seen_throughout(expected))
    assert got.mask_mod is not None
    places = torch.meshgrid(*(torch.arange(n) for n in lengths), indexing="ij")
    assert torch.equal(got.mask_mod(*places)[:, 0], visible(start, bound, length))


def seen_throughout(mask: BlockMask) -> torch.Tensor:
    """bool [rows, 1, blocks, blocks]: the blocks that are not looked into."""
    counts, order = mask.full_kv_num_blocks, mask.full_kv_indices
    assert counts is not None
    assert order is not None
    listed = torch.arange(order.shape[-1]) < counts[..., None]
    return torch.zeros_like(listed).scatter(-1, order.long(), listed)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flex_computes_what_dense_does() -> None:
    """Its uncompiled forward pass, the part that a machine without a GPU can run."""
    torch.manual_seed(0)
    start, bound = layout([[(LENGTH, "causal")]], LENGTH)
    q, k, v = torch.randn(3, 1, LENGTH, 2, 16)
    with torch.no_grad():
        sees = rule(start, bound)
        got = flex_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            score_mod=lambda score, row, head, i, j: torch.where(sees(row, head, i, j), score, -torch.inf),
        )
    torch.testing.assert_close(got.transpose(1, 2), attention(q, k, v, 0.0, causal=True))


def test_rows_of_one_segment_each_are_one_group() -> None:
    start, bound = layout([[(LENGTH, "causal")]] * 4, LENGTH)
    (group,) = groups(start.numpy(), bound.numpy())
    assert (group.length, group.count, group.shape) == (LENGTH, 4, "causal")


def test_the_segments_of_mixed_rows_are_found() -> None:
    found = groups(*(x.numpy() for x in layout(MIXED, LENGTH)))
    assert [(g.length, g.count, g.shape) for g in found] == [
        (5, 1, "causal"),
        (7, 1, "full"),
        (8, 1, "mask"),
        (1, 1, "single"),
        (9, 1, "causal"),
        (1, 2, "single"),
        (12, 1, "mask"),
        (12, 1, "mask"),
        (3, 1, "full"),
        (1, 5, "single"),
        (32, 1, "causal"),
        (16, 2, "full"),
    ]


def test_auto_takes_one_mask_for_crumbs_and_segments_for_long_segments() -> None:
    crumbs = layout([[(2, "causal"), (3, "causal")] * 20], 100)
    assert auto(*crumbs).__qualname__.startswith("dense")
    assert auto(*layout([[(400, "causal"), (600, "full")]], 1000)).__qualname__.startswith("_by_segment")


@pytest.mark.parametrize("back_end", ["dense", "segments", "auto"])
@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("shape", SHAPES)
def test_changing_one_segment_changes_no_logit_of_another(back_end: str, positions: str, shape: str) -> None:
    """Bit for bit, for a segment of each visibility in the midst of others, whatever it turns into."""
    config = ModelConfig(
        layers=2, width=32, heads=4, positions=positions, attention=back_end, max_sequence_length=LENGTH
    )
    model = Transformer(config, 50, HEADS, 2)
    initialise(model, config, 1)
    others = [(9, "prefix"), (11, "causal"), (8, "full")]
    one = batch(*layout([[others[0], (11, shape), others[2]]], LENGTH), 50)
    two = {name: array.clone() for name, array in one.items()}
    two["tokens"][:, 9:20] = (two["tokens"][:, 9:20] + 17) % 50
    with torch.no_grad():
        a, b = model.logits(one), model.logits(two)
    assert not torch.equal(a[:, 9:20], b[:, 9:20])
    assert torch.equal(a[:, :9], b[:, :9])
    assert torch.equal(a[:, 20:], b[:, 20:])


@pytest.mark.parametrize("back_end", ["dense", "segments"])
def test_a_segment_has_the_logits_that_it_has_alone(back_end: str) -> None:
    config = ModelConfig(layers=2, width=32, heads=4, attention=back_end, max_sequence_length=LENGTH)
    model = Transformer(config, 50, HEADS, 2)
    initialise(model, config, 1)
    packed = batch(*layout([[(9, "prefix"), (11, "prefix"), (8, "full")]], LENGTH), 50)
    alone = batch(*layout([[(11, "prefix")]], 11), 50)
    alone["tokens"] = packed["tokens"][:, 9:20]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(packed)[:, 9:20], model.logits(alone), rtol=0, atol=1e-6)
