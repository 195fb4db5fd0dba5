"""What several tests need: small corpora made by headrace's own pack."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.prepare.pack import PackReport, pack_documents
from data.shards.corpus import Corpus, open_corpus
from data.sources.documents import Document, Limits
from data.sources.pieces import Piece, size_of
from data.sources.read_files import FileReader
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


def read_files(paths: Iterable[str], field: str, limits: Limits) -> Iterator[Document]:
    """The documents of files, one by one: those with a text, and the problems, by line."""
    for batch in FileReader(field, limits)([Piece(path, size_of(path)) for path in paths]):
        joined, at, number = bytes(batch.data), 0, 0
        for stretch in batch.stretches:
            found = [Document(stretch.source, None, what, line) for line, what in stretch.problems]
            for place in range(stretch.documents):
                text = batch.long.get(number)
                if text is None:
                    text = joined[at : at + int(batch.sizes[number])]
                    at += len(text)
                line = None if stretch.numbers is None else int(stretch.numbers[place])
                whole = text.decode() if isinstance(text, bytes) else text
                found.append(Document(stretch.source, whole, None, line))
                number += 1
            yield from sorted(found, key=lambda one: one.line or 0)


@dataclass(frozen=True)
class TrainingText:
    """Two corpora in small units for whole runs (support/training.py), and the tokenizer of `Corpora`."""

    folder: Path
    tokenizer_path: Path
    code: str
    prose: str
