"""What several tests need: small corpora made by headrace's own pack."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.prepare.documents import Document
from data.prepare.pack import PackReport, pack_documents
from data.shards.corpus import Corpus, open_corpus
from data.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Corpora:
    """Two small packed corpora and a unigram tokenizer of 2 000 ids trained on both."""

    folder: Path
    tokenizer_path: Path
    code: str
    """Glob of the shards of `code`: about 1.5 MB of Python's standard library in two shards."""
    prose: str
    """Glob of the shards of `prose`: about 0.5 MB of docstrings and manuals in one shard."""

    def open(self, name: str) -> Corpus:
        """The corpus "code" or "prose"."""
        return open_corpus(name, [getattr(self, name)])

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_path)


def make_corpus(folder: Path, name: str, texts: Iterable[str], **options: object) -> Corpus:
    """Pack texts as the corpus `name` in `folder` and open it; `options` go to pack_documents."""
    pack_texts(folder, name, texts, **options)
    return open_corpus(name, [str(folder / f"{name}-*.tar*")])


def pack_texts(folder: Path, name: str, texts: Iterable[str], **options: object) -> PackReport:
    """Pack texts as the corpus `name` in `folder`."""
    documents = (Document(f"text {number}", text, None) for number, text in enumerate(texts))
    return pack_documents(documents, folder / name, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingText:
    """Two corpora in small units for whole runs (support/training.py), and the tokenizer of `Corpora`."""

    folder: Path
    tokenizer_path: Path
    code: str
    prose: str
