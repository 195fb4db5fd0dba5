"""What the repository's texts refer to, and whether it is there: for tests/whole/test_docs.py.

    path       data/stream/block.py, docs/design.md#words     from the root; the heading of a page too
    symbol     tests/test_house.py::test_the_house_is_kept    what that file defines
               `STREAM` in `data/plan/plan.py`                the same, in Markdown
    name       loop.py in a sentence or a drawing             some file of that name
    link       [text](design.md#words) of a Markdown page     from the page's own folder
    module     python -m tests.bench.step                     that can be run
    dotted     launcher.runs.progress.Progress, data.threads  a module, a name in it, or a key of the config
    make       `make train`                                   a target of the Makefile
    command    `headrace data show`                           of the command line

A word in capitals stands for any name: objectives/NAME.py. Paths, modules and commands are looked for in
every line; the rest where people read: in Markdown, in comments, in docstrings, and in all texts of the four
rooms, for these are messages. (In tests many a text is wrong on purpose.) What a page tells its reader to
make, in a fenced block that begins with the comment `# path`, need not be there.
"""

import ast
import fnmatch
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.sources import ROOMS

TEXTS = (".py", ".md", ".yaml", ".sbatch", ".toml", ".txt", "Makefile", "run")
LIBRARIES = ("ruamel.yaml",)
"""Their names look like those of files."""
FOLDERS = (*ROOMS, "tests", "docs", "configs", "slurm", ".ci")
OURS = (*ROOMS, "tests")
_PATH = re.compile(
    rf"(?<![\w/.<>$-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*+(?!\{{)(?:::\w+|#[\w-]+)?"
)
_NAME = re.compile(r"(?<![\w/.*{}-])[\w-]+\.(?:py|md|sbatch|yaml)\b(?!\w*\()")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SYMBOL = re.compile(r"`([A-Za-z_]\w+)` (?:in |\(|\| )`([\w/]+/\w+\.py)`")
_MODULE = re.compile(r"(?<![\w-])python3? -m ([\w.]+)")
_DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(OURS)})(?:\.(?!py\b|md\b)\w+)+(?![\w/]|\.\w)")
_CODE = re.compile(r"`([^`\n]+)`")
_KEY = re.compile(r"[a-z_]+(?:\.\w+)+(?=$|[=:, ])")
_MAKE = re.compile(r"make(?: [A-Z]+=(?:\"[^\"]*\"|\S*))* ([a-z][\w-]*)")
_COMMAND = re.compile(r"headrace ([a-z]+)(?: ([a-z]+))?")
_QUOTED_COMMAND = re.compile(r"[`']headrace ([a-z]+)(?: ([a-z]+))?")
_GROUPED_COMMAND = re.compile(r"headrace (data|tokenizer|checkpoint) ([a-z]+)")
_MADE = re.compile(r"^```\w*\n# (\S+\.py)$", re.M)
_CAPITALS = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2,}(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Reference:
    """What a line of a file refers to."""

    file: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind} {self.text}"


def references(file: str, text: str) -> Iterator[Reference]:
    """All references of a file of the repository, by its path from the root."""
    made = _MADE.findall(text) if file.endswith(".md") else []
    modules = tuple(path.removesuffix(".py").replace("/", ".") for path in made)
    for one in _references(file, text):
        if one.text not in made and not (modules and one.text.startswith(modules)):
            yield one


def _references(file: str, text: str) -> Iterator[Reference]:
    for number, line in enumerate(text.split("\n"), 1):
        for match in _PATH.finditer(line):
            found = match.group().rstrip(".-")
            yield Reference(file, number, "symbol" if "::" in found else "path", found)
        for match in _MODULE.finditer(line):
            yield Reference(file, number, "module", match.group(1).rstrip("."))
        for match in (*_QUOTED_COMMAND.finditer(line), *_GROUPED_COMMAND.finditer(line)):
            yield Reference(file, number, "command", " ".join(filter(None, match.groups())))
    fenced = False
    for number, line in prose(file, text):
        fenced ^= line.startswith("```")
        for kind, found in _in_prose(line, fenced, file.endswith(".md")):
            yield Reference(file, number, kind, found)


def _in_prose(line: str, fenced: bool, markdown: bool) -> Iterator[tuple[str, str]]:
    """(kind, text) of what a line of prose refers to."""
    for match in _NAME.finditer(line):
        yield "name", match.group()
    for match in _DOTTED.finditer(line):
        yield "dotted", match.group()
    if markdown:
        for match in _LINK.finditer(line):
            yield "link", match.group(1)
        for match in _SYMBOL.finditer(line):
            yield "symbol", f"{match.group(2)}::{match.group(1)}"
    for code in [line] if fenced else _CODE.findall(line):
        if match := _MAKE.match(code):
            yield "make", match.group(1)
        if fenced and (match := _COMMAND.match(code)):
            yield "command", " ".join(filter(None, match.groups()))
        if not fenced and (match := _KEY.match(code)) and not _DOTTED.match(code):
            yield "dotted", match.group()


def prose(file: str, text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of what people read in a file."""
    if file.endswith((".md", ".txt")):
        yield from enumerate(text.split("\n"), 1)
    elif file.endswith(".py"):
        messages = file.startswith(ROOMS)
        for node in ast.walk(ast.parse(text)):
            read = node if messages else node.value if isinstance(node, ast.Expr) else None
            if isinstance(read, ast.Constant) and isinstance(read.value, str):
                yield from enumerate(read.value.split("\n"), read.lineno)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if "#" in line:
                yield number, line[line.index("#") :]


def anchors(page: str) -> set[str]:
    """The anchors of a Markdown page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def defined(source: str) -> set[str]:
    """The names that a module defines, those in its classes with the name of the class before them."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], above: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(above + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{above}{node.name}.")
            for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
                if isinstance(target, ast.Name):
                    found.add(above + target.id)

    collect(ast.parse(source).body, "")
    return found


class Repository:
    """What is there to be referred to."""

    def __init__(self, root: Path, keys: set[str], commands: set[str]) -> None:
        """keys: of the config, `*` standing for a name; commands: of the command line."""
        self.root, self.commands = root, commands
        parts = [key.split(".") for key in keys]
        self.keys = {".".join(words[:size]) for words in parts for size in range(1, len(words) + 1)}
        self.sections = {words[0] for words in parts}

    @cached_property
    def files(self) -> frozenset[str]:
        """The files of the repository, from its root: all but hidden ones, .ci aside, and those of
        .gitignore."""
        ignored = (self.root / ".gitignore").read_text().split()

        def walk(folder: Path) -> Iterator[str]:
            for entry in folder.iterdir():
                path = entry.relative_to(self.root).as_posix()
                hidden = entry.name.startswith(".") and entry.name not in (".ci", ".gitignore")
                if hidden or any(_ignored(path, pattern) for pattern in ignored):
                    continue
                if entry.is_dir():
                    yield from walk(entry)
                else:
                    yield path

        return frozenset(walk(self.root))

    def texts(self) -> Iterator[tuple[str, str]]:
        """(path, text) of every file that people read or write."""
        for file in sorted(self.files):
            if file.endswith(TEXTS):
                yield file, (self.root / file).read_text()

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(str(above) for file in self.files for above in Path(file).parents)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(Path(file).name for file in self.files)

    @cached_property
    def _modules(self) -> Mapping[str, set[str]]:
        """Dotted name → what it defines; a package defines nothing but its modules."""
        modules = {
            file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): defined(
                (self.root / file).read_text()
            )
            for file in self.files
            if file.endswith(".py")
        }
        return modules | {folder.replace("/", "."): set() for folder in self._folders}

    @cached_property
    def _targets(self) -> set[str]:
        return set(re.findall(r"^([\w-]+):", (self.root / "Makefile").read_text(), re.M))

    def has(self, reference: Reference) -> bool:
        """Whether what is referred to is there."""
        kind, text = reference.kind, reference.text
        if kind in ("path", "symbol"):
            path, _, inside = text.replace("::", "#").partition("#")
            return self._has_path(path) and (not inside or self._inside(path, inside))
        if kind == "link":
            return "://" in text or self._linked(reference.file, text)
        if kind == "name":
            return text in LIBRARIES or any(fnmatch.fnmatchcase(name, _any(text)) for name in self._names)
        if kind == "module":
            first = text.split(".")[0]
            ours = fnmatch.filter(self._modules, _any(text))
            return bool(ours) or (first not in OURS and importlib.util.find_spec(first) is not None)
        if kind == "make":
            return text in self._targets
        if kind == "command":
            groups = {command.split()[0] for command in self.commands if " " in command}
            first = text.split()[0]
            return text in self.commands or first in self.commands or text in groups
        return self._has_dotted(text, package=reference.file.removesuffix("/__init__.py").replace("/", "."))

    def _has_path(self, path: str) -> bool:
        pattern = _any(path.rstrip("/"))
        return any(fnmatch.fnmatchcase(there, pattern) for there in (*self.files, *self._folders))

    def _inside(self, path: str, name: str) -> bool:
        text = (self.root / path).read_text()
        return name in (anchors(text) if path.endswith(".md") else defined(text))

    def _linked(self, file: str, target: str) -> bool:
        path, _, anchor = target.partition("#")
        there = (self.root / file).parent / path if path else self.root / file
        if not there.exists():
            return False
        return not anchor or anchor in anchors(there.read_text())

    def _has_dotted(self, text: str, package: str) -> bool:
        """package: that of an __init__.py, whose docstring names its modules."""
        if any(_same(text.split("."), key.split(".")) for key in self.keys):
            return True
        first = text.split(".")[0]
        if first not in OURS and first not in self.sections and f"{package}.{first}" not in self._modules:
            return True  # a name of somebody else's: torch.compile
        return self._defines(text) or self._defines(f"{package}.{text}")

    def _defines(self, dotted: str) -> bool:
        parts = dotted.split(".")
        for size in range(len(parts), 0, -1):
            module = _any(".".join(parts[:size]))
            for found in fnmatch.filter(self._modules, module):
                if size == len(parts) or ".".join(parts[size:]) in self._modules[found]:
                    return True
        return False


def _ignored(path: str, pattern: str) -> bool:
    """Whether a line of .gitignore means a path: from the root where it begins with a slash."""
    name = path if pattern.startswith("/") else Path(path).name
    return fnmatch.fnmatchcase(name, pattern.strip("/"))


def _same(words: list[str], key: list[str]) -> bool:
    """Whether words name a key, a name standing for any other where either says so."""
    same = (fnmatch.fnmatchcase(a, b) or fnmatch.fnmatchcase(b, _any(a)) for a, b in zip(words, key))
    return len(words) == len(key) and all(same)


def _any(text: str) -> str:
    """A pattern in which words in capitals stand for any name."""
    return _CAPITALS.sub("*", text)
