"""Whether the documents that a config skips are there at all.

A key with a typo in it leaves nothing out, and the document that was meant is trained on; so it is refused.
So is a key that several documents bear, which would leave out all of them.
The index knows no keys, so this reads text: what was asked for anew is looked for at a start where the corpus
is small enough for that to take seconds. In a larger one a start must not wait for it, possibly for hours and
with all GPUs idle: it warns, and `headrace check` and --dry-run look, on a machine that has time.
"""

from collections.abc import Iterable, Mapping

from data.errors import BadInput
from data.shards.corpus import Corpus, ReadTrouble
from data.shards.find import Located, bytes_to_read, find_documents, is_ambiguous, several
from launcher import output
from launcher.config.run_config import Config

AT_A_START = 256 << 20
"""Bytes of a corpus's tars that a start looks through."""


def refuse_unknown(
    config: Config, corpora: Mapping[str, Corpus], before: Config | None = None, most: float = AT_A_START
) -> list[str]:
    """BadInput for a quarantined name that no document of its corpus has, or several; corpora: those of the
    config to ask. A line for each corpus where that could not be told: of more than `most` bytes, or not to
    be read. Keys of the config `before` are known."""
    warnings = []
    for name, corpus in config.texts.items():
        known = before.texts.get(name) if before else None
        keys = sorted({*corpus.quarantine} - {*(known.quarantine if known else ())})
        if not keys or name not in corpora:
            continue
        key = f"{config.location(name)}.quarantine"
        size = bytes_to_read(corpora[name], keys)
        if size > most:
            warnings.append(
                f"{key}: whether these documents exist was not looked up in {output.size(size)}; "
                "'headrace check', or this command with --dry-run, does it (SHARD/KEY is found quickly)"
            )
            continue
        try:
            found = _looked_up(corpora[name], keys)
        except ReadTrouble as trouble:
            warnings.append(f"{key}: whether these documents exist cannot be told: {trouble}")
            continue
        if missing := sorted(asked for asked, documents in found.items() if not documents):
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise BadInput(
                f"{key}: none of the {corpora[name].index.samples:,} documents of corpus {name} has the key "
                f"{missing[0]!r}{others}; 'headrace data trace' and 'show' print the keys of documents"
            )
        for asked, documents in found.items():
            if is_ambiguous(asked, documents):
                raise BadInput(f"{key}: {several(asked, name, documents)}")
            if len(documents) > 1:
                warnings.append(f"{key}: {asked!r} means {len(documents)} documents, all of this name")
    return warnings


def _looked_up(corpus: Corpus, keys: Iterable[str]) -> dict[str, list[Located]]:
    with output.progress(f"looking for the quarantine in {corpus.name}") as report:
        return find_documents(corpus, keys, report)
