"""The shards that an index lists, and where they lie now: by their names, and by a look at each.

A name in an index is relative to the index where the shard lies below its folder, so a corpus may move as a
whole. Of fifty thousand shards every call for each counts: names are compared as strings, and where they and
the files' sizes and times are as the index has them one look at each file is all.
"""

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from data.access.transports import is_local, shown
from data.errors import BadInput
from data.shards.index import Index
from data.shards.store import braces
from data.shards.units import UNIT_TEXT
from data.shards.walk import is_pattern, meant, unreadable


class GoneShard(BadInput):
    """A shard that an index lists, or the index itself, is not there. To a run that has read it before that
    is trouble that may pass: a file system that is not mounted."""

    def at(self, place: str) -> "GoneShard":
        """See BadInput.at."""
        return GoneShard(f"{place}: {self}")


def remedy(index: str | Path, shards: Sequence[str], unit_text: int = UNIT_TEXT) -> str:
    """The command that makes the index of these shards."""
    given = " ".join(f"'{shown(shard)}'" for shard in shards[:3]) + (" …" if len(shards) > 3 else "")
    size = "" if unit_text == UNIT_TEXT else f" --unit-kib {unit_text >> 10}"
    return f"headrace data index {given} --out {shlex.quote(str(index))}{size}"


def default_index(name: str | None, first: str) -> list[str]:
    """Where the index of shards that begin with `first` is looked for, in this order."""
    folder, _, base = first.rpartition("/")
    stem = base.split(".")[0].rstrip("0123456789").rstrip("-_")
    whole = re.sub(r"-\d+of\d+$", "", stem)  # of a part of a pack
    names = [candidate for candidate in dict.fromkeys((name, whole, stem)) if candidate]
    return [os.path.join(folder, candidate + ".index") for candidate in names]


def index_candidates(name: str, shards: Sequence[str], index: str | Path | None) -> list[str]:
    """Where the index of these shards may lie: where the user says, or beside the first."""
    if index is not None:
        return [str(index)]
    return default_index(name, shards[0]) if shards and is_local(shards[0]) else []


def find_index(name: str, shards: Sequence[str], index: str | Path | None) -> Path:
    """The first of them that is there. BadInput where none is."""
    candidates = index_candidates(name, shards, index)
    if not candidates:
        raise BadInput(
            f"shards that are not local need `index`, a local path; make it:"
            f" {remedy(name + '.index', shards)}"
        )
    for candidate in candidates:
        if os.path.exists(candidate):
            return Path(candidate)
    raise GoneShard(f"no index at {' or '.join(candidates)}; make it: {remedy(candidates[0], shards)}")


def identity(url: str, index: Path) -> str:
    """A shard's name in an index: relative to the index where it lies below its folder."""
    return identities([url], index)[0]


def identities(urls: Iterable[str], index: Path) -> list[str]:
    """`identity` of many."""
    own = os.path.join(os.path.dirname(os.path.abspath(index)), "")
    folders: dict[str, str] = {}
    names = []
    for url in urls:
        if not is_local(url):
            names.append(shown(url))
            continue
        folder, _, base = url.rpartition("/")
        if base in ("", ".", ".."):
            path = os.path.abspath(url)
        else:
            if folder not in folders:
                above = os.path.abspath(folder or ("/" if url.startswith("/") else "."))
                folders[folder] = os.path.join(above, "")
            path = folders[folder] + base
        names.append(path.removeprefix(own))
    return names


def named(shards: Sequence[str]) -> list[str] | None:
    """What the names stand for as far as names tell: paths, braces, and globs in the last part of a path. No
    file is looked at, so links and what is no shard are among them. None where it takes more than names."""
    found: list[str] = []
    for pattern in shards:
        for name in braces(pattern):
            if not is_local(name):
                return None
            if not is_pattern(name) or os.path.lexists(name):
                found.append(name)
                continue
            folder, slash, last = name.rpartition("/")
            if is_pattern(folder) or "**" in last:
                return None
            try:
                there = os.listdir(folder + slash or ".")
            except OSError:
                return None
            hidden = last.startswith(".")
            found += sorted(
                folder + slash + entry
                for entry in there
                if fnmatchcase(entry, last) and (hidden or not entry.startswith("."))
            )
    return found


def listed_as_named(index: Index, urls: Sequence[str]) -> list[str] | None:
    """The given shards in the order of the index, where they are exactly those that it lists, by name."""
    by_name = dict(zip(identities(urls, index.path), urls))
    if len(by_name) != len(urls) or len(urls) != len(index.shards):
        return None
    found = [by_name.get(name) for name in index.shards]
    return None if None in found else found  # type: ignore[return-value]


def as_indexed(index: Index, urls: Sequence[str]) -> bool:
    """Whether all of these local shards, in the order of the index, have the size and the time that it
    recorded."""
    try:
        for url, shard in zip(urls, index.stored, strict=True):
            status = os.stat(url)
            if status.st_mtime_ns != shard.mtime_ns or status.st_size != shard.size:
                return False
            if not stat.S_ISREG(status.st_mode):
                return False
    except OSError:
        return False
    return True


def within_sight(urls: Sequence[str]) -> bool:
    """Whether the first and the last of local shards are there: where they are not, the file system may be
    none of this machine's."""
    return os.path.exists(urls[0]) and os.path.exists(urls[-1])


def match(index: Index, urls: Sequence[str], remedy: str) -> list[str]:
    """The given shards in the order of the index: by name, or by last part of the name where they moved."""
    names = identities(urls, index.path)
    by_name = _without_passed_over(index, dict(zip(names, urls)))
    if by_name.keys() != set(index.shards):
        by_base = {name.rsplit("/", 1)[-1]: url for name, url in by_name.items()}
        bases = [name.rsplit("/", 1)[-1] for name in index.shards]
        if len(by_base) == len(by_name) and len(set(bases)) == len(bases) and set(by_base) == set(bases):
            return [by_base[base] for base in bases]
        missing = sorted(set(index.shards) - set(by_name))
        extra = sorted(set(by_name) - set(index.shards))
        more = f" (and {len(missing or extra) - 1} more)" if len(missing or extra) > 1 else ""
        if missing:
            what = f"lists {missing[0]}, which is not among the shards{more}: bring it back, or"
        else:
            what = f"does not list {extra[0]}{more}:"
        raise (GoneShard if missing else BadInput)(f"{index.path}: {what} make the index again: {remedy}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BadInput(f"{repeated[0]}: is given twice")
    return [by_name[name] for name in index.shards]


def _without_passed_over(index: Index, urls: dict[str, str]) -> dict[str, str]:
    """`urls` without what `data index` passed over too: further names of a file that the index lists, and
    what cannot be read."""
    bases = {name.rsplit("/", 1)[-1] for name in index.shards}
    listed = {name for name in index.shards if name in urls} or {
        name for name in urls if name.rsplit("/", 1)[-1] in bases
    }
    if len(listed) == len(urls):
        return urls
    met = {found.identity for name in listed if is_local(urls[name]) for found in meant(urls[name])}
    return {
        name: url
        for name, url in urls.items()
        if name in listed
        or not is_local(url)
        or not (unreadable(url) or any(found.identity in met for found in meant(url)))
    }
