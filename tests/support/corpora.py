"""The small corpora and tokenizer that tests share, made once and kept in a temporary folder."""

import hashlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data.prepare import builtin
from data.prepare.documents import Document
from data.prepare.pack import pack_documents
from data.shards.corpus import open_corpus
from data.tokenization.train import train
from tests.support.helpers import Corpora
from tests.support.sources import source_files

_SOURCES = ("prepare", "shards", "tokenization")
"""Packages of data/ whose code decides what the corpora and the tokenizer are: a change of it makes them
anew."""


def _first_bytes(name: str, limit: int) -> Iterator[Document]:
    """Every third document of a built-in corpus that is no giant, up to about `limit` bytes of text."""
    total = 0
    for document in itertools.islice(builtin.documents(name), 0, None, 3):
        size = len(document.text or "")
        if 0 < size < 60_000:
            yield document
            total += size
        if total > limit:
            return


def _key() -> str:
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes())
    files = [path for package in _SOURCES for path in source_files(f"data/{package}")]
    assert len(files) > 15, files
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path) -> None:
    pack_documents(_first_bytes("code", 1_500_000), folder / "code", shard_bytes=1 << 20)
    pack_documents(_first_bytes("prose", 500_000), folder / "prose")
    corpora = [open_corpus(name, [str(folder / f"{name}-*.tar")]) for name in ("code", "prose")]
    train(corpora, folder / "tokenizer.model", vocabulary=2000, budget=600_000)


def small_corpora() -> Corpora:
    """Packed `code` and `prose` and a tokenizer; read-only. Made by the first who asks: some seconds."""
    folder = Path(tempfile.gettempdir()) / f"headrace-tests-{os.getuid()}" / _key()
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as building:
            _build(Path(building) / "corpora")
            try:
                (Path(building) / "corpora").rename(folder)
            except OSError:  # another session was quicker: its corpora are the same
                assert folder.exists()
    return Corpora(
        folder=folder,
        tokenizer_path=folder / "tokenizer.model",
        code=str(folder / "code-*.tar"),
        prose=str(folder / "prose-*.tar"),
    )
