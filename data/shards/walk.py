"""Every file that names, folders and globs mean, once; what is passed over is counted and named.

    name ──▶ meant ──▶ a file │ a folder ──▶ below ──▶ Found … ──▶ Walk ─┬─ files, each once
                       a glob ──▶ matching ──▶ Found …                   └─ passed over, by reason

A file is what it is on the disk (device and inode), not its name: of several names, symlinks or hard links,
the first counts, so that neither what is read nor its order depends on which of them is the link. A folder is
entered once, so a loop of links ends. Nothing is opened here: a named pipe would wait for its writer.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from data.balance import Balance

TWICE = "met twice (a link to the same, or named twice)"
HIDDEN = "hidden (the name begins with a dot)"
_NOT_FILES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class Found(NamedTuple):
    """A file or folder. `reason`: why it is passed over, None where it is not."""

    path: str
    folder: bool
    reason: str | None = None
    identity: tuple[int, int] = (0, 0)
    """Device and inode of a file."""


def _anything(path: str) -> str | None:
    return None


@dataclass
class Walk:
    """What was found so far. `refusal` says why a file of this path is passed over, None where it is not."""

    refusal: Callable[[str], str | None] = _anything
    files: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """Further names of `files`."""
    balance: Balance = field(default_factory=Balance)
    """Of all files there: those in `files`, and those passed over."""
    not_entered: Balance = field(default_factory=Balance)
    """Folders."""
    _met: set[tuple[int, int]] = field(default_factory=set)

    def add(self, found: Iterable[Found]) -> None:
        """Take the files that are new."""
        for one in found:
            if one.folder:
                named = one.reason or "a folder (name what is in it: FOLDER/*)"
                self.not_entered.leave_out(named, [printable(one.path)])
            elif reason := one.reason or self.refusal(one.path):
                self.balance.leave_out(reason, [printable(one.path)])
            elif one.identity in self._met:
                self.balance.leave_out(TWICE, [printable(one.path)])
                self.again.append(one.path)
            else:
                self.files.append(one.path)
                self.balance.used += 1
                self._met.add(one.identity)

    def take(self, urls: Sequence[str]) -> None:
        """Files that lie on no disk of this machine."""
        self.files += urls
        self.balance.used += len(urls)

    def lines(self) -> list[str]:
        """What was passed over and why, a line each."""
        entered = [f"folders not entered: {line}" for line in self.not_entered.reasons()]
        return self.balance.reasons() + entered


def printable(path: str) -> str:
    """A path for messages: as it is, or quoted where it holds a line end or bytes that are no text."""
    return path if path.isprintable() else repr(path)


def unreadable(path: str) -> str | None:
    """Why a file cannot be opened, as far as its rights tell."""
    return None if os.access(path, os.R_OK) else f"cannot be read ({os.strerror(errno.EACCES)})"


def meant(name: str) -> list[Found]:
    """What a name stands for: the file or folder of this name, else what it matches as a glob.

    Empty where there is nothing. A named pipe, a link to nothing … is found with its reason.
    """
    if os.path.lexists(name):
        return [_look(name)]
    try:
        os.stat(name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return [Found(name, False, _because(error))]
    return matching(name) if is_pattern(name) else []


def below(folder: str, entered: set[tuple[int, int]] | None = None) -> Iterator[Found]:
    """All files below a folder, by name, those of a folder in front of those of its subfolders; and the
    folders that are not entered. `entered`: those of earlier calls; is added to."""
    for _, entries in _tree(folder, "*", set() if entered is None else entered):
        yield from (entry for entry in entries if not entry.folder or entry.reason)


def matching(pattern: str) -> list[Found]:
    """What a glob matches, by name: * ? [ ] in a part of the path, ** for any folders between.

    Names that begin with a dot are hidden unless the pattern has the dot too. A folder that the last part
    matches is found as such, unless ** enters it.
    """
    root, parts = ("/", pattern.lstrip("/")) if pattern.startswith("/") else ("", pattern)
    found: dict[str, Found] = {}
    for one in _match(root, parts.split("/")):
        found.setdefault(one.path, one)
    return [found[path] for path in sorted(found)]


def is_pattern(part: str) -> bool:
    """Whether this would be read as a glob."""
    return any(character in part for character in "*?[")


def _match(folder: str, parts: list[str]) -> Iterator[Found]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _match_deep(folder, rest or ["*"])
        return
    if is_pattern(part):
        entries = [
            one
            for one in _entries(folder, part)
            if one.path == folder or fnmatchcase(os.path.basename(one.path), part)
        ]
    else:
        path = os.path.join(folder, part)
        entries = [_look(path)] if os.path.lexists(path) else []
    for one in entries:
        if not rest or (one.reason and (one.folder or os.path.islink(one.path))):
            yield one
        elif one.folder:
            yield from _match(one.path, rest)


def _match_deep(folder: str, rest: list[str]) -> Iterator[Found]:
    last = len(rest) == 1 and is_pattern(rest[0]) and rest[0] != "**"
    for path, entries in _tree(folder, rest[0] if last else "", set()):
        yield from (one for one in entries if one.reason and one.folder)
        if last:
            yield from (one for one in entries if not one.folder)
        else:
            yield from _match(path, rest)


def _tree(folder: str, pattern: str, entered: set[tuple[int, int]]) -> Iterator[tuple[str, list[Found]]]:
    """Each folder at and below one, entered once, with its entries; see `_entries`. A folder that was
    entered already stands, with that reason, in a list of its own."""
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path or ".")
        except OSError as error:
            yield path, [Found(path, True, _because(error))]
            continue
        if (status.st_dev, status.st_ino) in entered:
            yield path, [Found(path, True, TWICE)]
            continue
        entered.add((status.st_dev, status.st_ino))
        entries = _entries(path, pattern)
        yield path, entries
        waiting += [one.path for one in reversed(entries) if one.folder and not one.reason]


def _entries(folder: str, pattern: str) -> list[Found]:
    """All folders in a folder, and what else has a name that matches, by name."""
    try:
        with os.scandir(folder or ".") as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        return [Found(folder, True, _because(error))]
    found = []
    for entry in entries:
        path = os.path.join(folder, entry.name)
        matches = fnmatchcase(entry.name, pattern)
        if entry.name.startswith(".") and not pattern.startswith("."):
            folder_too = _is_folder(entry)
            if matches or folder_too:
                found.append(Found(path, folder_too, HIDDEN))
        elif matches or _is_folder(entry):
            found.append(_look(path))
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _look(path: str) -> Found:
    """What stands at a path, links followed."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Found(path, False, "a link to nothing" if error.errno == errno.ENOENT else _because(error))
    if stat.S_ISDIR(status.st_mode):
        return Found(path, True)
    if not stat.S_ISREG(status.st_mode):
        return Found(path, False, _NOT_FILES.get(stat.S_IFMT(status.st_mode), "a device"))
    return Found(path, False, None, (status.st_dev, status.st_ino))


def _because(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads to itself"
    return f"cannot be read ({error.strerror})"
