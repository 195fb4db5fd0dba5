"""Two corpora that every machine with Python has: real text for the first run, without a download.

`code` is the Python sources of the running standard library (about 12 MB), `prose` its docstrings, the topics
of pydoc and the long descriptions of the installed distributions (about 3 MB). Both are read, never imported,
in an order that depends on names alone.
"""

import ast
import importlib.metadata
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import BadInput
from data.shards.text import NotText, decode
from data.sources.documents import Document

_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
"""Folders left out. The library's own tests are as large as the library, hold broken files on purpose, and
many distributions of Python leave them away."""


def documents(name: str) -> Iterator[Document]:
    """The documents of the built-in corpus `name`: "code" or "prose"."""
    corpora: dict[str, Callable[[], Iterator[Document]]] = {"code": _code, "prose": _prose}
    if name not in corpora:
        raise BadInput(f"builtin:{name}: no such corpus; expected builtin:code or builtin:prose")
    return corpora[name]()


def _sources() -> Iterator[tuple[str, bytes]]:
    """(path below the standard library, bytes) of its Python files, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise BadInput(f"{root}: the standard library's sources are not there; pack text of your own")
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    for path in sorted(path.as_posix() for path in paths if not _SKIPPED & set(path.parts)):
        yield path, (root / path).read_bytes()


def _code() -> Iterator[Document]:
    for path, data in _sources():
        try:
            text = decode(data)
        except NotText as error:
            yield Document(path, None, f"{error} at byte {error.at}")
            continue
        yield Document(path, text, None) if text else Document(path, None, "empty")


def _prose() -> Iterator[Document]:
    for path, data in _sources():
        if path.startswith("pydoc_data/"):
            yield from _topics(path, data)
        elif text := _docstrings(data):
            yield Document(path, text, None)
    for name, text in sorted(_descriptions()):
        yield Document(name, text, None)


def _docstrings(data: bytes) -> str:
    """The docstrings of a module, its classes and functions, in the order of the file; "" where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the library's tests hold dubious escapes on purpose
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError, RecursionError):  # and some do not parse, on purpose
            return ""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                line = 0 if isinstance(node, ast.Module) else node.lineno
                found.append((line, text))
    return "\n\n".join(text for _, text in sorted(found, key=lambda pair: pair[0]) if _is_text(text))


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _topics(path: str, data: bytes) -> Iterator[Document]:
    """The topics of pydoc: the string values of the dictionary literal in pydoc_data/topics.py."""
    for node in ast.walk(ast.parse(data)):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(value, ast.Constant)):
                continue
            if isinstance(key.value, str) and isinstance(value.value, str) and value.value:
                yield Document(f"{path}:{key.value}", value.value, None)


def _descriptions() -> set[tuple[str, str]]:
    """(name and version, long description) of the installed distributions that carry one."""
    found = set()
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        text = metadata.get("Description") or metadata.get_payload()  # type: ignore[attr-defined]
        if isinstance(text, str) and len(text) > 200 and _is_text(text):
            found.add((f"{metadata['Name']} {metadata['Version']}", text))
    return found
