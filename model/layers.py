"""The layers: Embedding, Block, and the small modules inside them.

No module touches a weight that is not its own, and only inside its forward: engines that keep weights in
parts bring them together around exactly that. A weight is made unfilled (NaN) and filled by name
(initialise.py), so building a model is cheap and a forgotten initialisation shows itself at the first loss.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention_context import AttentionContext
from model.config import ModelConfig
from model.rotary import apply_rotary
from model.share import WHOLE, Passage, Sections, Share

Result = TypeVar("Result")


def weight(*shape: int) -> nn.Parameter:
    """A parameter that waits for its initialisation."""
    return nn.Parameter(torch.full(shape, torch.nan))


class Linear(nn.Module):
    """x [.., inputs] → [.., outputs], without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = weight(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class ColumnLinear(Linear):
    """The first matrix of a half of a block: of each section of its outputs a share (share.py)."""

    def __init__(self, inputs: int, sections: tuple[int, ...], share: Share) -> None:
        super().__init__(inputs, sum(sections) // share.of)
        self.sections = Sections(0, sections)


class RowLinear(Linear):
    """The last matrix of a half of a block: it takes a share of the inputs and gives a term of the result."""

    def __init__(self, inputs: int, outputs: int, share: Share) -> None:
        super().__init__(inputs // share.of, outputs)
        self.sections = Sections(1, (inputs,))


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · gain over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, enter: Passage) -> None:
        super().__init__()
        self.weight = weight(width)
        self.enter = enter

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.enter(self.weight), 1e-6)


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + ε) · gain + bias over the last dimension (Ba et al. 2016)."""

    def __init__(self, width: int, enter: Passage) -> None:
        super().__init__()
        self.weight = weight(width)
        self.bias = weight(width)
        self.enter = enter

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.enter(self.weight), self.enter(self.bias), 1e-5)


def norm(config: ModelConfig, width: int, enter: Passage = WHOLE.enter) -> nn.Module:
    """The normalisation that the config names. enter: of a share, where what it normalises is one."""
    return RMSNorm(width, enter) if config.norm == "rms" else LayerNorm(width, enter)


class TokenTable(nn.Module):
    """The table [vocabulary, width] alone: both ends of a tied model hold this module and nothing of it."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = weight(vocabulary, width)

    def forward(self, x: Tensor, use: Callable[[Tensor, Tensor], Result]) -> Result:
        """use(x, table): the weight is lent to `use` and to nobody else."""
        return use(x, self.weight)


class Embedding(nn.Module):
    """Token ids [rows, T] → hidden [rows, T, width], with learned positions where the config wants them."""

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.table = TokenTable(vocabulary, config.width)
        self.positions = (
            TokenTable(config.max_sequence_length, config.width) if config.positions == "learned" else None
        )
        self.dropout = config.dropout

    def forward(self, tokens: Tensor, context: AttentionContext) -> Tensor:
        hidden = self.table(tokens, F.embedding)
        if self.positions is not None:
            hidden = hidden + self.positions(context.position, F.embedding)
        return F.dropout(hidden, self.dropout, self.training)


class KVCache:
    """Keys and values of one block so far, for generation. positions: how many it will ever hold."""

    def __init__(self, positions: int) -> None:
        self._positions, self._filled = positions, 0
        self._store: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and all values [rows, positions so far, kv heads, head width], the new ones last."""
        if self._store is None:
            self._store = k.new_empty(2, k.shape[0], self._positions, *k.shape[2:])
        new = slice(self._filled, self._filled + k.shape[1])
        self._store[0, :, new], self._store[1, :, new] = k, v
        self._filled = new.stop
        keys, values = self._store[:, :, : new.stop]
        return keys, values


class Attention(nn.Module):
    """Self-attention over what `context` lets a position see; q, k, v come from one matrix. Of a share: with
    its heads alone."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads // share.of, config.num_kv_heads // share.of
        self.head_width, self.dropout = config.head_width, config.attention_dropout
        kv = config.num_kv_heads * config.head_width
        self.qkv = ColumnLinear(config.width, (config.width, kv, kv), share)
        self.out = RowLinear(config.width, config.width, share)
        self.q_norm = norm(config, self.head_width, share.enter) if config.qk_norm else None
        self.k_norm = norm(config, self.head_width, share.enter) if config.qk_norm else None

    def forward(self, hidden: Tensor, context: AttentionContext, cache: KVCache | None = None) -> Tensor:
        rows, length, _ = hidden.shape
        qkv = self.qkv(hidden).view(rows, length, -1, self.head_width)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split([self.heads, self.kv_heads], dim=2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        if context.cos_sin is not None:
            qk = apply_rotary(qk, context.cos_sin)
        q, k = qk.split([self.heads, self.kv_heads], dim=2)
        if cache is not None:
            k, v = cache.extend(k, v)
        seen = context.attend(q, k, v, self.dropout if self.training else 0.0)
        return self.out(seen.reshape(rows, length, -1))


class MLP(nn.Module):
    """down(silu(gate)·up) (SwiGLU, Shazeer 2020; gate and up are one matrix) or down(gelu(up))."""

    def __init__(self, config: ModelConfig, share: Share) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.up = ColumnLinear(config.width, (config.mlp_features,) * (2 if self.gated else 1), share)
        self.down = RowLinear(config.mlp_features, config.width, share)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.gated:
            gate, up = self.up(hidden).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(self.up(hidden), approximate="tanh"))


class Block(nn.Module):
    """hidden [rows, T, width] → the same shape: attention, then feed-forward, each added to its input.

    Normalised before each half (pre: GPT-2, Llama) or after each sum (post: the 2017 Transformer, BERT).
    """

    def __init__(self, config: ModelConfig, share: Share = WHOLE) -> None:
        super().__init__()
        self.pre = config.norm_placement == "pre"
        self.dropout, self.share = config.dropout, share
        self.attention_norm = norm(config, config.width)
        self.attention = Attention(config, share)
        self.mlp_norm = norm(config, config.width)
        self.mlp = MLP(config, share)

    def forward(self, hidden: Tensor, context: AttentionContext, cache: KVCache | None = None) -> Tensor:
        if self.pre:
            hidden = hidden + self._half(self.attention, self.attention_norm(hidden), context, cache)
            return hidden + self._half(self.mlp, self.mlp_norm(hidden))
        hidden = self.attention_norm(hidden + self._half(self.attention, hidden, context, cache))
        return self.mlp_norm(hidden + self._half(self.mlp, hidden))

    def _half(self, half: nn.Module, x: Tensor, *more: AttentionContext | KVCache | None) -> Tensor:
        x = self.share.leave(half(self.share.enter(x), *more))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
