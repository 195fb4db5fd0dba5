"""From the config to what the stream is asked for: the open corpora and the settings of its plan.

One place, so that `check`, `data show`, training and a resume cannot ask for different streams.
"""

import socket
from collections.abc import Container, Hashable, Iterable, Mapping

from data.access.patience import Patience
from data.access.trouble import Transient
from data.errors import BadInput
from data.plan.block_file import blocks_of
from data.plan.make import CorpusSettings, StreamSettings
from data.plan.plan import History, Plan
from data.shards.corpus import Corpus, open_corpus
from data.shards.listed import GoneShard
from data.shards.samples import Reading
from data.shards.store import Store
from launcher.config.run_config import Config
from launcher.config.timetable import placed_in_rows, row_finder

OpenedCorpora = dict[Hashable, Corpus]
"""Corpora that this process has opened, by what the config says of them."""


def open_corpora(
    config: Config,
    patience: Patience | None = None,
    *,
    read_before: Container[str] = (),
    known: OpenedCorpora | None = None,
    look: bool = True,
) -> dict[str, Corpus]:
    """Every corpus of the config, dropped ones (weight 0) included. BadInput names what is missing; trouble
    that passes is waited for, here and in all reads, with the config's patience unless one is given.
    read_before: the corpora that this run has read, so that a shard which is not there is such trouble
    too. known: what was opened before and is taken as it is; gets what is opened now. look: as of
    open_corpus."""
    names = config.data.corpora
    return open_texts(config, names, patience, read_before=read_before, known=known, look=look)


def open_texts(
    config: Config,
    names: Iterable[str],
    patience: Patience | None = None,
    *,
    read_before: Container[str] = (),
    known: OpenedCorpora | None = None,
    look: bool = True,
) -> dict[str, Corpus]:
    """These corpora of the config, trained on or evaluated on; the rest as in `open_corpora`."""
    patience = patience or Patience(config.data.patience)
    known = {} if known is None else known
    opened = {name: _known(config, name, patience, name in read_before, known, look) for name in names}
    for name, corpus in opened.items():
        if not corpus.index.has_text:
            named = f"corpus {name}" if name in config.data.corpora else config.location(name)
            raise BadInput(
                f"{named}: no text in its {len(corpus.shards)} shards; why: "
                f"headrace data verify {corpus.index.path}"
            )
    return opened


def _known(
    config: Config, name: str, patience: Patience, read_before: bool, known: OpenedCorpora, look: bool
) -> Corpus:
    text = config.texts[name]
    asked = (name, *text.shards, text.index, text.text_field, text.text_member, config.data.cache)
    if asked in known:
        return known[asked].with_store(Store(config.data.cache, patience))
    known[asked] = opened = _opened(config, name, patience, read_before, look)
    return opened


def require_same(corpora: Mapping[str, Corpus], checksums: Mapping[str, str]) -> None:
    """BadInput where a corpus is not the one that rank 0 reads. checksums: of its tables, by name."""
    for name, corpus in corpora.items():
        if corpus.index.checksum != checksums[name]:
            raise BadInput(
                f"data.corpora.{name}: {corpus.index.path} on {socket.gethostname()} is not the index that "
                f"rank 0 reads (checksum {corpus.index.checksum[:8]}, there {checksums[name][:8]}); all "
                "machines need the same index and shards"
            )


def _opened(config: Config, name: str, patience: Patience, read_before: bool, look: bool) -> Corpus:
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
                look=look,
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
        counts = [era.units for era in part.eras]
        whose = (plan.seed, part.name, counts, part.held_out, plan.block_bytes)
        if not len(blocks_of(corpora[part.name], *whose).held_out):
            raise BadInput(
                f"data.corpora.{part.name}.held_out: nothing can be held out: its text is a single document; "
                "set it to 0, add text, or leave eval.every out"
            )


def stream_settings(
    config: Config, corpora: dict[str, Corpus], tokenizer: str, past: History | None = None, row: int = 0
) -> StreamSettings:
    """What the plan is made of from `row` on; `tokenizer` is its hash. past: the plan's history before that
    row, by which places in tokens come to rows. BadInput where they come to what cannot be."""
    row_for = row_finder(config.sequence_length, past, row)
    try:
        mixture = config.objectives.in_rows(row_for)
    except ValueError as error:
        raise BadInput(f"objectives: {error}") from None
    return StreamSettings(
        seed=config.seed,
        tokenizer=tokenizer,
        lanes=config.lanes,
        length=config.sequence_length,
        max_length=config.max_sequence_length,
        batch_rows=placed_in_rows(config.batch_rows, row_for),
        corpora={
            name: CorpusSettings(
                corpora[name], corpus.weight.in_rows(row_for), corpus.held_out, corpus.coefficient
            )
            for name, corpus in config.data.corpora.items()
        },
        mixture=mixture,
        block_bytes=config.data.block_bytes,
        normalise=config.normalise,
        quarantine=[(name, key) for name, c in config.data.corpora.items() for key in c.quarantine],
        on_bad=config.data.on_bad,
        streams=config.data.streams,
        padding=None if config.data.padding == "never" else config.data.padding,
    )
