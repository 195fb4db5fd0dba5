"""The small corpora and tokenizer that tests share, made once and kept in a temporary folder."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import zstandard

from data.prepare.pack import pack_documents
from data.shards.corpus import open_corpus
from data.sources.documents import Document
from data.tokenization.train import train
from tests.support.helpers import Corpora
from tests.support.sources import ROOT, source_files

LIBRARY = ROOT / "tests" / "fixtures" / "library"

_SOURCES = ("prepare", "shards", "tokenization")
"""Packages of data/ whose code decides what the corpora and the tokenizer are: a change of it makes them
anew."""


def _documents(name: str) -> Iterator[Document]:
    """Those of tests/fixtures/library: the same text on every machine, whichever Python runs the tests."""
    lines = zstandard.decompress((LIBRARY / f"{name}.jsonl.zst").read_bytes()).splitlines()
    for fields in map(json.loads, lines):
        yield Document(fields["source"], fields["text"], None)


def _key() -> str:
    digest = hashlib.sha256(metadata.version("sentencepiece").encode())
    files = [path for package in _SOURCES for path in source_files(f"data/{package}")]
    assert len(files) > 15, files
    for path in (Path(__file__), *sorted(LIBRARY.iterdir()), *files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path) -> None:
    pack_documents(_documents("code"), folder / "code", shard_bytes=1 << 20)
    pack_documents(_documents("prose"), folder / "prose")
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
