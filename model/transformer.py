"""The Transformer: one flat list of layers, run in a row, from a micro-batch's arrays to its loss.

    Embedding    (tokens, context)          → hidden
    Block × n    (hidden, context)          → hidden
    Head         (hidden, what is asked)  → loss and its sums

`context` is made from the arrays start and bound (attention_context.py), once. The list may be cut anywhere,
and a Transformer may be a part of it: what passes a cut is hidden, start and bound, three tensors, and each
part makes its own context of the latter two. Only the Head knows of targets, and of objectives only which
output each uses.

    whole   0 Embedding   1 Block   2 Block   3 Block   4 Head      the layers keep their numbers, and with
    part    None          None      2 Block   3 Block   4 Head      them their parameters keep their names
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention_context import AttentionContext, Columns, attention_context
from model.config import ModelConfig
from model.layers import Block, ColumnLinear, Embedding, Linear, RowLinear, TokenTable, norm
from model.loss import cross_entropy, sums
from model.share import WHOLE, Sections, Share

HEADS = ("vocabulary", "binary")
"""Outputs that an objective may use: the vocabulary, or two classes."""


class Head(nn.Module):
    """Last normalisation, the projection on the token table, and the two classes.

    Logits are computed only where there is a target: those positions are selected first, which is the one
    point of a step at which the host waits for the device. Every weight takes part in every step, if with an
    empty selection, so that each always has a gradient and engines never wait for one.
    """

    def __init__(self, config: ModelConfig, table: TokenTable, heads: Sequence[str], corpora: int) -> None:
        super().__init__()
        self.binary_ids = tuple(number for number, head in enumerate(heads) if head == "binary")
        self.objectives, self.corpora = len(heads), corpora
        self.z_loss, self.chunk = config.z_loss, config.loss_chunk
        self.norm = norm(config, config.width) if config.norm_placement == "pre" else nn.Identity()
        self.table = table
        self.binary = Linear(config.width, 2)

    def forward(
        self, hidden: Tensor, batch: Mapping[str, Tensor], accuracy: bool = False
    ) -> tuple[Tensor, ...]:
        """Transformer.forward's result, for hidden [rows, T, width]."""
        flat = {name: batch[name].flatten() for name in ("targets", "weights", "objective", "corpus")}
        asked, is_binary = flat["targets"] >= 0, torch.zeros_like(flat["targets"], dtype=torch.bool)
        for number in self.binary_ids:
            is_binary |= flat["objective"] == number
        to_table, to_binary = (asked & ~is_binary).nonzero()[:, 0], (asked & is_binary).nonzero()[:, 0]
        positions = torch.cat([to_table, to_binary])
        states = self.norm(hidden.flatten(0, 1).index_select(0, positions))
        targets, weights, objective, corpus = (array.index_select(0, positions) for array in flat.values())
        n = len(to_table)
        words = self.table(
            states[:n],
            lambda x, table: cross_entropy(x, table, targets[:n], weights[:n], self.z_loss, self.chunk),
        )
        scores = self.binary(states[n:]).float()
        lost = F.cross_entropy(scores, targets[n:].long(), reduction="none")
        entropy = torch.cat([words.entropy, lost.detach()])
        add = partial(
            sums, objective=objective, corpus=corpus, objectives=self.objectives, corpora=self.corpora
        )
        loss, by = words.loss + (weights[n:] * lost).sum(), add(weights * entropy)
        if not accuracy:
            return loss, by
        return loss, by, add(torch.cat([words.correct, scores.argmax(1) == targets[n:]]))

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits, float32 [.., V], at every position of hidden [.., width]."""
        return self.table(self.norm(hidden), F.linear).float()


TABLE = "layers.0.table.weight"
"""The token table's name; of a tied one on both ends."""

Reseed = Callable[[int], None]
"""Called with a layer's number before it runs, in training."""


def build_layers(
    config: ModelConfig, vocabulary: int, heads: Sequence[str], corpora: int, part: range, share: Share
) -> list[nn.Module | None]:
    """Embedding, Block × layers, Head; None for those whose numbers are not in `part`. heads: the output of
    each objective id, of HEADS. share: of each block."""
    for head in heads:
        if head not in HEADS:
            raise ValueError(f"heads: expected {' or '.join(HEADS)}, got {head!r}")
    last = config.layers + 1
    embedding = Embedding(config, vocabulary) if 0 in part else None
    blocks = [Block(config, share) if number in part else None for number in range(1, last)]
    if last not in part:
        return [embedding, *blocks, None]
    tied = embedding is not None and config.tie_embeddings
    table = embedding.table if embedding and tied else TokenTable(vocabulary, config.width)
    return [embedding, *blocks, Head(config, table, heads, corpora)]


class Transformer(nn.Module):
    """The layers in a row, or a part of them. Weights are unfilled until initialise.initialise or a
    checkpoint fills them."""

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: int,
        heads: Sequence[str],
        corpora: int,
        checkpoint_blocks: bool = False,
        part: range | None = None,
        share: Share = WHOLE,
    ) -> None:
        """part: the numbers of the layers that it has; None: all. share: of each block, what it has."""
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.objectives, self.corpora = len(heads), corpora
        self.checkpoint_blocks = checkpoint_blocks
        self.part = range(config.layers + 2) if part is None else part
        self.share = share
        self.layers = nn.ModuleList()
        for number, layer in enumerate(build_layers(config, vocabulary, heads, corpora, self.part, share)):
            self.layers.add_module(str(number), layer)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        accuracy: bool = False,
        reseed: Reseed | None = None,
        columns: Columns | None = None,
    ) -> tuple[Tensor, ...]:
        """(loss, sums), or (loss, sums, correct), of a micro-batch.

        batch: tokens, targets, start, bound (integers), weights (float32, scaled as the loss wants them),
        objective, corpus (integers, −1 where there is no target), all [rows, T]. loss: 0-dim,
        Σ weight·(cross-entropy + z_loss·lse²). sums: float32 [objectives, corpora], without gradient, of the
        very terms weight·cross-entropy. correct: the number of targets that have the largest logit, in the
        same shape; only in a pass without gradients. columns: the batch has these alone of each array but
        start and bound, and loss and sums are theirs.
        """
        if accuracy and torch.is_grad_enabled():
            raise ValueError("accuracy is counted in passes without gradients (torch.no_grad)")
        return self.head(self.hidden(batch, None, reseed, columns), batch, accuracy)

    @property
    def has_head(self) -> bool:
        """It has the last layer."""
        return self.config.layers + 1 in self.part

    @property
    def head(self) -> Head:
        """The last layer."""
        return cast(Head, self.layers[-1])

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers between Embedding and Head, of those that it has."""
        return [layer for layer in list(self.layers)[1:-1] if layer is not None]

    @property
    def twin(self) -> nn.Parameter | None:
        """The head's copy of a tied table whose embedding is in another part."""
        if not self.config.tie_embeddings or 0 in self.part or not self.has_head:
            return None
        return self.head.table.weight

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Its parameters by the names that they have in the whole model, where a tied table stands once."""
        named = dict(self.named_parameters())
        if self.twin is not None:
            named[TABLE] = named.pop(f"layers.{self.config.layers + 1}.table.weight")
        return named

    def shared_weights(self) -> dict[str, Sections]:
        """How those of its parameters are shared of which it has only a part, by name."""
        if self.share.of == 1:
            return {}
        return {
            f"{name}.weight": module.sections
            for name, module in self.named_modules()
            if isinstance(module, ColumnLinear | RowLinear)
        }

    def counted_weights(self) -> dict[str, nn.Parameter]:
        """Those of its weights that count here, by name, so that over all parts and shares each counts once:
        of a tied table the first part's copy, of what all shares have whole the first one's."""
        shared = self.shared_weights()
        return {
            name: weight
            for name, weight in self.named_weights().items()
            if weight is not self.twin and (self.share.index == 0 or name in shared)
        }

    def hidden(
        self,
        batch: Mapping[str, Tensor],
        hidden: Tensor | None = None,
        reseed: Reseed | None = None,
        columns: Columns | None = None,
    ) -> Tensor:
        """[rows, T or `columns`, width]: what the Head, or the next part, is given. Needs start, bound; and
        tokens, or in a part behind the first `hidden`, of the part before it."""
        context = attention_context(batch["start"], batch["bound"], self.config, columns=columns)
        for number in self.part:
            if number > self.config.layers:
                break
            if reseed is not None:  # not inside a block: it is run again for its gradients, at another time
                reseed(number)
            hidden = self._layer(number, batch, hidden, context)
        assert hidden is not None
        return hidden

    def _layer(
        self, number: int, batch: Mapping[str, Tensor], hidden: Tensor | None, context: AttentionContext
    ) -> Tensor:
        layer = self.layers[number]
        if number == 0:
            return layer(batch["tokens"], context)
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(layer, hidden, context, use_reentrant=False)
        return layer(hidden, context)

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Vocabulary logits, float32 [rows, T, V], at every position: for tests and small batches."""
        return self.head.logits(self.hidden(batch))
