"""`headrace tokenizer …`: a tokenizer trained from shards, and any tokenizer checked against them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from data.access.patience import MINUTES, Patience
from launcher import output
from launcher.cli.options import AsJson, PatienceMinutes

if TYPE_CHECKING:
    from data.shards.corpus import Corpus

tokenizer = typer.Typer(help="Train and check tokenizers.", no_args_is_help=True)

Corpora = Annotated[
    list[str], typer.Argument(metavar="INDEX|SHARD…", help="Index files, or the shards of one corpus.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(tokenizer, name="tokenizer")


def corpora_of(arguments: Sequence[str], minutes: float) -> "list[Corpus]":
    """Open what was named: each index file as a corpus of its own, all shards together as one. minutes: that
    shards out of reach are waited for."""
    from data.prepare.verify import recorded
    from data.shards.corpus import open_corpus
    from data.shards.index import Index

    patience = Patience(minutes, setting="--patience")
    indexes = [argument for argument in arguments if argument.endswith(".index")]
    shards = [argument for argument in arguments if not argument.endswith(".index")]
    opened = []
    for path in indexes:
        index = Index.open(path)
        opened.append(open_corpus(index.name, recorded(index), path, patience=patience))
    if shards:
        stem = shards[0].rpartition("/")[2].split(".")[0].rstrip("0123456789*?[]{}").rstrip("-_") or "corpus"
        opened.append(open_corpus(stem, shards, patience=patience))
    return opened


@tokenizer.command("train")
def train_tokenizer(
    corpora: Corpora,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The model to write.")],
    vocabulary: Annotated[int, typer.Option("--vocabulary", "-v", help="Ids, control ids included.")] = 32000,
    algorithm: Annotated[str, typer.Option("--algorithm", help="unigram or bpe.")] = "unigram",
    sample_mib: Annotated[int, typer.Option("--sample-mib", min=1, help="Text to train on, at most.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 1,
    patience: PatienceMinutes = MINUTES,
) -> None:
    """Train a SentencePiece model on shards.

    On a seeded sample of bounded size; the model is lossless by default.

    \b
    Example:
      headrace tokenizer train shards/code.index shards/prose.index --out tokenizer.model --vocabulary 32000
    """
    from data.tokenization.train import train as run

    opened = corpora_of(corpora, patience)
    account: list[str] = []
    with output.progress("reading the sample") as report:
        made = run(
            opened,
            out,
            vocabulary=vocabulary,
            algorithm=algorithm,
            budget=sample_mib << 20,
            seed=seed,
            progress=report,
            note=account.append,
        )
    for line in account:
        output.say(line)
    output.say(f"{made.size:,} ids, hash {made.hash[:16]}: {out}")


@tokenizer.command("check")
def check_tokenizer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A SentencePiece model.")],
    corpora: Corpora,
    sample_mib: Annotated[
        int | None, typer.Option("--sample-mib", min=1, help="Check a sample; by default all.")
    ] = None,
    json: AsJson = False,
    patience: PatienceMinutes = MINUTES,
) -> None:
    """Send corpora through a tokenizer and back.

    Prints bytes a token, the share of byte fallback, tokens that are unknown, and what is lost.
    Exit code 2 if a document does not come back as it was.

    \b
    Example:
      headrace tokenizer check tokenizer.model shards/code.index
    """
    from data.tokenization.check import check as run
    from data.tokenization.tokenizer import Tokenizer

    opened = corpora_of(corpora, patience)
    budget = None if sample_mib is None else sample_mib << 20
    with output.progress("checking") as report:
        reports = run(Tokenizer.load(model), opened, budget=budget, progress=report)
    rows = [
        {
            "corpus": name,
            "documents": r.documents,
            "tokens": r.tokens,
            "bytes_per_token": r.bytes_per_token,
            "byte_fallback": r.byte_fallback,
            "unknown": r.unknown,
            "unknown_share": r.unknown_share,
            "not_lossless": r.mismatches,
            "bad_samples": r.bad_samples,
            "broken": r.broken,
            "lost": r.lost,
        }
        for name, r in reports.items()
    ]
    if json:
        output.say_json(rows)
    else:
        titles = [title for title in rows[0] if title not in ("broken", "lost")]
        output.table([title.replace("_", " ") for title in titles], [[r[t] for t in titles] for r in rows])
        for r in rows:
            for key, lost in zip(r["broken"], r["lost"]):  # type: ignore[call-overload]
                output.say(f"did not come back: {r['corpus']}/{key}: {lost}")
    if any(r.mismatches for r in reports.values()):
        raise typer.Exit(2)
