"""Text from a trained model, one token at a time: onwards, backwards, or into a gap.

Ids in, ids out: what the ids mean is the tokenizer's business. A `Reader` reads a prompt once and then each
new token alone, because the blocks remember keys and values. The three forms are those in which the
objectives show text to the model (causal, reverse, fim), so a model trained on an objective is asked in the
same way; `visible_prompt` lets prompt positions see the whole prompt, as `prefix` does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import dense
from model.attention_context import attention_context
from model.config import require_temperature
from model.layers import KVCache
from model.transformer import Transformer


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. temperature 0 takes the likeliest; top_k and top_p (Holtzman et al. 2020) keep
    the k likeliest, or the fewest that hold probability p; seed fixes all draws."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected a whole number of at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number above 0 and at most 1, got {self.top_p}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed: expected a whole number of 64 bits, got {self.seed}")


class Reader:
    """One segment a row, read in parts. positions: the most that will be read."""

    def __init__(self, model: Transformer, positions: int) -> None:
        if positions > model.config.max_sequence_length:
            raise ValueError(
                f"{positions} positions are more than the model's {model.config.max_sequence_length}"
            )
        self._model, self._read = model, 0
        self._caches = [KVCache(positions) for _ in range(model.config.layers)]

    @torch.no_grad()
    def read(self, tokens: Tensor, visible_prompt: bool = False) -> Tensor:
        """Hidden states [rows, n, width] of the next tokens [rows, n]; they see all that was read before,
        and themselves causally, or each other wholly with visible_prompt."""
        first, self._read = self._read, self._read + tokens.shape[1]
        position = torch.arange(first, self._read, device=tokens.device).expand_as(tokens)
        start = torch.zeros_like(position)
        bound = torch.full_like(position, self._read - 1) if visible_prompt else position
        context = attention_context(start, bound, self._model.config, dense(start, bound, self._read), first)
        embedding, *blocks, _ = self._model.layers
        hidden = embedding(tokens, context)
        for block, cache in zip(blocks, self._caches):
            hidden = block(hidden, context, cache)
        return hidden


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """int64 [rows]: one token for each of float32 logits [rows, V]; on the CPU, the same on every device."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float().cpu()
    # From the greatest down: divided by a small temperature, scores as they are would all be infinite.
    scores = (scores - scores.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    chances = scores.softmax(-1)
    if sampling.top_p is not None:
        ranked, order = chances.sort(dim=-1, descending=True, stable=True)
        beyond = ranked.cumsum(-1) - ranked >= sampling.top_p
        beyond[:, 0] = False  # also where top_p is 0 in float32
        chances = torch.zeros_like(chances).scatter(-1, order, ranked.masked_fill(beyond, 0.0))
    return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)


def generate(
    model: Transformer,
    prompt: Sequence[int],
    *,
    limit: int,
    stop: int,
    sampling: Sampling,
    samples: int = 1,
    forbidden: Collection[int] = (),
    visible_prompt: bool = False,
) -> list[list[int]]:
    """What follows `prompt` (at least one id), for each of `samples`, without the prompt.

    A sample ends before the id `stop` or after `limit` ids. Ids in `forbidden` are never drawn. The model's
    training mode is left as it was found.
    """
    if not prompt or limit < 1:
        raise ValueError("generation needs a prompt of at least one id, and a limit of at least 1")
    device = next(model.parameters()).device
    reader = Reader(model, len(prompt) + limit)
    generator = torch.Generator().manual_seed(sampling.seed)
    banned = torch.tensor(sorted(set(forbidden) - {stop}), dtype=torch.long, device=device)
    was_training = model.training
    model.eval()
    try:
        tokens = torch.tensor([list(prompt)] * samples, device=device)
        hidden = reader.read(tokens, visible_prompt)
        drawn: list[Tensor] = []
        ended = torch.zeros(samples, dtype=torch.bool, device=device)
        while True:
            with torch.no_grad():
                logits = model.head.logits(hidden[:, -1]).index_fill(1, banned, -torch.inf)
            drawn.append(draw(logits, sampling, generator))
            ended |= drawn[-1] == stop
            if len(drawn) == limit or ended.all():
                break
            hidden = reader.read(drawn[-1][:, None])
    finally:
        model.train(was_training)
    return [_until(row, stop) for row in torch.stack(drawn, 1).tolist()]


def _until(tokens: list[int], stop: int) -> list[int]:
    return tokens[: tokens.index(stop)] if stop in tokens else tokens


def onwards_prompt(begin: int, text: Sequence[int]) -> list[int]:
    """The prompt that `text` opens: begin, text; the continuation ends with `end`."""
    return [begin, *text]


def backwards_prompt(end: int, text: Sequence[int]) -> list[int]:
    """The prompt that `text` closes: end, and text from its last id to its first. What is generated is to be
    reversed by the caller; it ends with `begin`."""
    return [end, *reversed(text)]


def infill_prompt(
    fim_prefix: int, fim_suffix: int, fim_middle: int, before: Sequence[int], after: Sequence[int]
) -> list[int]:
    """The prompt with a gap: <pre> before <suf> after <mid> (Bavarian et al. 2022); `end` closes the gap."""
    return [fim_prefix, *before, fim_suffix, *after, fim_middle]
