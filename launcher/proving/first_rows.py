"""The rows of the first step, drawn here from the user's stream: what the ranks' reports are held against."""

from dataclasses import dataclass

import numpy as np

from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.stream.loader import Loader
from data.stream.rows import Rows, step_fingerprint
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.proving.reduced import Reduced
from launcher.runs.stream_settings import open_corpora, stream_settings


@dataclass(frozen=True)
class FirstStep:
    """The rows of a config's first step, in global order."""

    rows: Rows
    fingerprint: str
    source_tokens: float
    """Tokens of text in them."""
    vocabulary: int

    @property
    def packed(self) -> float:
        """The share of rows with more than one segment."""
        several = [
            len(np.unique(start[corpus >= 0])) > 1 for start, corpus in zip(self.rows.start, self.rows.corpus)
        ]
        return float(np.mean(several))


def first_step(config: Config) -> FirstStep:
    """Drawn by one loader alone. BadInput where text or tokenizer cannot be read."""
    tokenizer = Tokenizer.load(config.tokenizer.model)
    corpora = open_corpora(config)
    with Loader(
        History(((0, make_plan(stream_settings(config, corpora, tokenizer.hash))),)),
        corpora,
        tokenizer,
        rank=0,
        world=1,
        first_row=0,
        state=StreamPositions(),
        micro_batch=1,
        threads=0,
        memory_bytes=config.data.memory_mib << 20,
    ) as loader:
        batch = next(loader)
    fingerprint = step_fingerprint(batch.rows.fingerprints())
    return FirstStep(batch.rows, fingerprint, float(batch.source_tokens.sum()), tokenizer.size)


def packing(reduced: Reduced, longest: int) -> tuple[Reduced, FirstStep]:
    """With the least T at which some row packs several segments: doubled until one does, up to `longest`."""
    length = reduced.config.sequence_length
    while True:
        step = first_step(reduced.config)
        if step.packed or length == longest:
            return reduced, step
        length = min(2 * length, longest)
        reduced = reduced.of_length(length)
