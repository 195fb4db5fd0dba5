"""From the config to what the stream is asked for: the open corpora and the settings of its plan.

One place, so that `check`, `data show`, training and a resume cannot ask for different streams.
"""

from collections.abc import Container, Mapping

from data.errors import BadInput
from data.plan.held_out import held_out_units
from data.plan.make import CorpusSettings, StreamSettings
from data.plan.plan import Plan
from data.shards.corpus import Corpus, GoneShard, open_corpus
from data.shards.patience import Patience
from data.shards.samples import Reading
from data.shards.trouble import Transient
from launcher.config.run_config import Config


def open_corpora(
    config: Config, patience: Patience | None = None, *, read_before: Container[str] = ()
) -> dict[str, Corpus]:
    """Every corpus of the config, dropped ones (weight 0) included. BadInput names what is missing; trouble
    that passes is waited for, here and in all reads, with the config's patience unless one is given.
    read_before: the corpora that this run has read, so that a shard which is not there is such trouble
    too."""
    patience = patience or Patience(config.data.patience)
    opened = {name: open_text(config, name, patience, name in read_before) for name in config.data.corpora}
    for name, corpus in opened.items():
        require_text(corpus, f"corpus {name}")
    return opened


def require_text(corpus: Corpus, named: str) -> None:
    """BadInput, beginning with what it is named, where a corpus has no text."""
    if not corpus.index.text_bytes:
        raise BadInput(
            f"{named}: no text in its {len(corpus.shards)} shards; why: "
            f"headrace data verify {corpus.index.path}"
        )


def open_text(config: Config, name: str, patience: Patience, read_before: bool) -> Corpus:
    """A corpus of the config, trained on or not, as `open_corpora` does it."""
    corpus, location = config.texts[name], config.location(name)

    def attempt() -> Corpus:
        try:
            return open_corpus(
                name,
                corpus.shards,
                corpus.index,
                config.data.cache,
                Reading(corpus.text_field, corpus.text_member),
                location=location,
                patience=patience,
            )
        except GoneShard as error:
            if not read_before:
                raise
            raise Transient(str(error).removeprefix(f"{location}: ")) from error

    return patience.keep_trying(location, location, 1.0, attempt)


def require_held_out(config: Config, plan: Plan, corpora: Mapping[str, Corpus]) -> None:
    """BadInput where evaluations are asked for on a corpus of which nothing can be set aside."""
    for part in plan.corpora:
        if not config.eval.every or not part.held_out or part.name not in corpora or part.held_out_documents:
            continue
        table, counts = corpora[part.name].table, [era.units for era in part.eras]
        if not len(held_out_units(plan.seed, part.name, table, counts, part.held_out)):
            raise BadInput(
                f"data.corpora.{part.name}.held_out: nothing can be held out: its text is a single document; "
                "set it to 0, add text, or leave eval.every out"
            )


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
            name: CorpusSettings(corpora[name], corpus.weight, corpus.held_out, corpus.coefficient)
            for name, corpus in config.data.corpora.items()
        },
        mixture=config.objectives,
        block_bytes=config.data.block_bytes,
        normalise=config.normalise,
        quarantine=[(name, key) for name, c in config.data.corpora.items() for key in c.quarantine],
        on_bad=config.data.on_bad,
        streams=config.data.streams,
    )
