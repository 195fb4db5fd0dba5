"""Texts that a run writes as it learns: the prompts of the config, continued with the weights of the moment.

The prompts are continued in a plain copy of the model on rank 0, whatever the layout: no collective runs
inside generation, so a long sample cannot get the ranks out of step.
"""

import torch

from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.engine.zero_engine import Engine
from launcher.inference.generate import text_of
from launcher.tracking.records import SampleRecord
from model.generate import Sampling
from model.transformer import Transformer


class Sampler:
    """Continues the config's prompts. Every rank has one and calls it at the same time."""

    def __init__(self, config: Config, tokenizer: Tokenizer, plain: Transformer | None) -> None:
        """plain: a model of the same shape, on rank 0."""
        self._config, self._tokenizer = config, tokenizer
        self._plain = plain

    def record(self, engine: Engine, step: int, attempt: int) -> SampleRecord | None:
        """The texts, on rank 0. A collective where the layout divides the weights."""
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
