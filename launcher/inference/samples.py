"""Texts that a run writes as it learns: the prompts of the config, continued with the weights of the moment.

The prompts are continued in a plain copy of the model on rank 0, whatever the layout: no collective runs
inside generation, so a long sample cannot get the ranks out of step. The copy is whole and in float32, on the
host; where it does not fit the run goes without samples (`no_room`).
"""

import torch

from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config.run_config import Config
from launcher.engine.engine import Engine
from launcher.inference.generate import text_of
from launcher.tracking.records import SampleRecord
from model.accounting import PLAIN_BYTES, parameters
from model.generate import Sampling
from model.transformer import Transformer


def no_room(config: Config, vocabulary: int, free: int) -> str | None:
    """Why samples are left out on a host with `free` bytes; None: they fit. Half of what is free is left to
    what grows yet: the buffer of the first save, blocks of text, and activations where the host trains."""
    needed = PLAIN_BYTES * parameters(config.model, vocabulary)
    if needed <= free // 2:
        return None
    return (
        f"no samples: they need the whole model on the host of rank 0, {output.size(needed)} of the "
        f"{output.size(free)} that are free there; 'headrace generate {config.path} PROMPT' continues a "
        "prompt from a checkpoint, wherever that fits"
    )


class Sampler:
    """Continues the config's prompts. Every rank has one and calls it at the same time."""

    def __init__(self, config: Config, tokenizer: Tokenizer, plain: Transformer | None) -> None:
        """plain: a model of the same shape, on rank 0."""
        self._config, self._tokenizer = config, tokenizer
        self._plain = plain

    def record(self, engine: Engine, step: int, attempt: int) -> SampleRecord | None:
        """The texts, on rank 0. A collective where the layout divides the weights or cuts the model."""
        own = dict(self._plain.named_parameters()) if self._plain else {}
        with torch.no_grad():
            for name, weight in engine.each_weight():  # all ranks, to the end
                if own:
                    own[name].copy_(weight)
        if self._plain is None:
            return None
        settings = self._config.eval.samples
        texts = []
        for number, prompt in enumerate(settings.prompts):
            sampling = Sampling(settings.temperature, None, settings.top_p, seed=step + number)
            text = text_of(
                self._plain, self._tokenizer, self._config.objectives, prompt, settings.tokens, sampling
            )
            texts.append({"prompt": prompt, "text": text})
        return SampleRecord(step=step, attempt=attempt, samples=texts)
