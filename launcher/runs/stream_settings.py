"""From the config to what the stream is asked for: the open corpora and the settings of its plan.

One place, so that `check`, `data show`, training and a resume cannot ask for different streams.
"""

from data.errors import BadInput
from data.plan.make import CorpusSettings, StreamSettings
from data.shards.corpus import Corpus, open_corpus
from data.shards.patience import Patience
from launcher.config.run_config import Config


def open_corpora(config: Config, patience: Patience | None = None) -> dict[str, Corpus]:
    """Every corpus of the config, dropped ones (weight 0) included. BadInput names what is missing; trouble
    that passes is waited for, here and in all reads, with the config's patience unless one is given."""
    patience = patience or Patience(config.data.patience)
    opened = {
        name: open_corpus(
            name,
            corpus.shards,
            corpus.index,
            config.data.cache,
            corpus.text_field,
            location=f"data.corpora.{name}",
            patience=patience,
        )
        for name, corpus in config.data.corpora.items()
    }
    for name, corpus in opened.items():
        if not corpus.index.text_bytes:
            raise BadInput(
                f"corpus {name}: no text in its {len(corpus.shards)} shards; why: "
                f"headrace data verify {corpus.index.path}"
            )
    return opened


def stream_settings(config: Config, corpora: dict[str, Corpus], tokenizer: str) -> StreamSettings:
    """What the plan is made of; `tokenizer` is its hash."""
    return StreamSettings(
        seed=config.seed,
        tokenizer=tokenizer,
        lanes=config.lanes,
        length=config.sequence_length,
        max_length=config.max_sequence_length,
        batch_rows=config.batch_rows,
        corpora={
            name: CorpusSettings(corpora[name].index, corpus.weight, corpus.held_out)
            for name, corpus in config.data.corpora.items()
        },
        mixture=config.objectives,
        block_bytes=config.data.block_bytes,
        normalise=config.normalise,
        quarantine=[(name, key) for name, c in config.data.corpora.items() for key in c.quarantine],
        on_bad=config.data.on_bad,
    )
