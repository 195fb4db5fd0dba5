"""What a micro-batch lets its positions see, worked out once and handed to every block.

Masks, segment lists and rotary angles follow from the integer arrays start and bound and from nothing else,
so they are made once and not again for each layer; and a part of the model that was sent only the two arrays
makes an equal AttentionContext for itself.

Everything in the model but attention takes a position by itself. So a model may be given some columns of its
rows alone, with start and bound of the whole rows, where somebody (Columns) knows how attention gets at the
others.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.attention import BACK_ENDS, SHORTEST_FLEX, Kernel
from model.config import ModelConfig
from model.rotary import rotary_cos_sin


class Columns(Protocol):
    """The columns of its rows that a model is given."""

    def cut(self, whole: Tensor) -> Tensor:
        """[rows, T, …] → [rows, those columns, …]."""

    def over_rows(self, kernel: Kernel) -> Kernel:
        """Attention of those columns, given attention over whole rows."""


@dataclass(frozen=True)
class AttentionContext:
    """Where the positions stand in their segments, and attention among them."""

    position: Tensor
    """int [rows, T]: i − start[i]; of some columns, [rows, those]."""
    cos_sin: tuple[Tensor, Tensor] | None
    """Of rotary positions (rotary.rotary_cos_sin)."""
    attend: Kernel


def back_end(config: ModelConfig, length: int, *, gpu: bool) -> str:
    """The config's back end, by name; on a GPU auto is flex where it fits and rows of `length` are long."""
    if gpu and config.attention == "auto" and config.flex_fits and length >= SHORTEST_FLEX:
        return "flex"
    return config.attention


def attention_context(
    start: Tensor,
    bound: Tensor,
    config: ModelConfig,
    kernel: Kernel | None = None,
    first: int = 0,
    columns: Columns | None = None,
) -> AttentionContext:
    """The AttentionContext of positions first, first + 1, … with start and bound int [rows, T].

    kernel: attention to use instead of the config's back end. This and `first` are for generation, whose
    queries are fewer than its keys. columns: those that the context is for; None: all.
    """
    positions = torch.arange(first, first + start.shape[1], device=start.device, dtype=start.dtype)
    position = positions - start
    if columns is not None:
        position = columns.cut(position)
    cos_sin = (
        rotary_cos_sin(position, config.head_width, config.rope_base) if config.positions == "rope" else None
    )
    if kernel is None:
        name = back_end(config, start.shape[1], gpu=start.device.type == "cuda")
        kernel = BACK_ENDS[name](start, bound)
    if columns is not None:
        kernel = columns.over_rows(kernel)
    return AttentionContext(position, cos_sin, kernel)
