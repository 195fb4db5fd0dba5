"""The documents in a run of tar members: which of them hold text, and under which keys.

A sample is, as WebDataset has it, a run of consecutive members that share a key: the name up to the first dot
of its last part. Its documents are its members of text (.txt, .md, .py), each by itself, or, where it has
none of these, its .json members, of which one field is the text. A document's key is the sample's; where a
sample has several documents it is KEY.EXTENSION, so that files named 2101.00001.txt, 2101.00002.txt, which
are one sample to WebDataset, are two documents to us. The user may name the member, or the field, that is
meant.

Two readers: `samples` for training, of a unit whose bytes are vouched for; `scan` for indexing, of a whole
tar, which also accounts for every member that is no document.
"""

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.balance import Balance
from data.shards.tar import NAME, Member, members, plain_members
from data.shards.tar_fields import Buffer
from data.shards.text import NotText, decode, unmarked

TEXTS = ("txt", "md", "py")
METADATA = ".json beside a text"
_tuple = tuple.__new__
"""Makes a NamedTuple at half the cost of its constructor."""
_IN_KEYS = np.zeros(256, dtype=bool)
_IN_KEYS[[*map(ord, string.ascii_letters + string.digits + "-_")]] = True
_TXT, _JSON = (np.frombuffer(suffix, np.uint8) for suffix in (b".txt\0", b".json\0"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a sample. text_field: the field of its .json that is the text, which then counts before
    .txt; text_member: the extension of the one member that is read, such as en.txt."""

    text_field: str | None = None
    text_member: str | None = None

    @property
    def field(self) -> str:
        """The field of a .json that is the text."""
        return self.text_field or "text"


USUAL = Reading()


class Sample(NamedTuple):
    """A document, or a part of a long one, with its key. `text` is None where `problem` says why there is
    none. part: its number, from 0; last: whether no part follows."""

    key: str
    text: str | None
    problem: str | None
    part: int = 0
    last: bool = True


class TextMember(NamedTuple):
    """A member that is a document, or should be. json: a field of it is the text."""

    key: str
    member: Member
    json: bool


class SampleExtent(NamedTuple):
    """Where a sample lies in a tar (from `start` up to `end`), and its documents; none where it has no
    text."""

    key: str
    start: int
    end: int
    texts: list[TextMember]


def split_name(name: str) -> tuple[str, str] | None:
    """(key, extension) of a member, or None where WebDataset too passes it over: no key, no dot, `__…__`."""
    base = name.rfind("/") + 1
    dot = name.find(".", base)
    if dot <= base or (name.startswith("__") and name.endswith("__")):
        return None
    return name[:dot], name[dot + 1 :]


Named = tuple[str, Member]
"""(extension, member)"""


def _grouped(
    buffer: Buffer, check: bool, balance: Balance | None = None
) -> Iterator[tuple[str, int, list[Named]]]:
    """(key, start, members) of each sample. What is in none is left out of the balance."""
    key: str | None = None
    parts: list[Named] = []
    start = at = 0
    stem = "\0"
    """Key and dot of the sample at hand: a member that begins so belongs to it, and need not be split."""
    for member in members(buffer, check=check):
        name = member[0]
        if member[4] is not None:
            if balance is not None:
                balance.leave_out(member[4], [name or f"from byte {member[1]}"])
            continue
        if name.startswith(stem) and "/" not in name[at:] and stem[:2] != "__":
            parts.append((name[at:], member))
            continue
        split = split_name(name)
        if split is None:
            if balance is not None:
                balance.leave_out("not named KEY.EXTENSION", [name])
            continue
        if split[0] != key:
            if key is not None:
                yield key, start, parts
            key, start, parts = split[0], member.start, []
            stem = key + "."
            at = len(stem)
        parts.append((split[1], member))
    if key is not None:
        yield key, start, parts


def _suffix(extension: str) -> str:
    return extension.rpartition(".")[2].lower()


def _texts(key: str, parts: list[Named], reading: Reading) -> list[TextMember]:
    """The documents of a sample."""
    if reading.text_member is not None:
        chosen = [part for part in parts if part[0] == reading.text_member]
    elif reading.text_field is not None:
        chosen = [part for part in parts if _suffix(part[0]) == "json"]
    else:
        chosen = [part for part in parts if part[0] in TEXTS or _suffix(part[0]) in TEXTS]
        chosen = chosen or [part for part in parts if _suffix(part[0]) == "json"]
    if len(chosen) == 1:
        (extension, member), name = chosen[0], key
        return [_tuple(TextMember, (name, member, _suffix(extension) == "json"))]
    return [TextMember(f"{key}.{ext}", member, _suffix(ext) == "json") for ext, member in chosen]


def read_text(data: bytes | memoryview, field: str | None) -> tuple[str | None, str | None]:
    """(text, problem) of a member's bytes, exactly one of them None; field: the one of a JSON object that is
    the text, None where the bytes are it."""
    try:
        text = decode(data)
        if field is not None:
            record = json.loads(text)
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str):
                return None, f"no text: no field '{field}' of text"
            text = unmarked(value)
            text.encode()  # JSON can spell half of a surrogate pair, which is no text
    except NotText as error:
        return None, str(error)
    except UnicodeError:
        return None, "not UTF-8"
    except (ValueError, RecursionError):
        return None, "no text: not JSON"
    return (text, None) if text else (None, "no text: it is empty")


def read_part(data: bytes | memoryview) -> tuple[str | None, str | None]:
    """(text, problem) of a part of a long text that is not its first: no mark of an encoding begins it."""
    try:
        return str(data, "utf-8"), None
    except UnicodeDecodeError:
        return None, "not UTF-8"


def _samples(buffer: Buffer, key: str, parts: list[Named], reading: Reading) -> Iterator[Sample]:
    texts = _texts(key, parts, reading)
    if not texts:
        yield Sample(key, None, "no text")
    for name, (_, _, start, size, _), is_json in texts:
        text, problem = read_text(buffer[start : start + size], reading.field if is_json else None)
        yield _tuple(Sample, (name, text, problem, 0, True))


def _plain_texts(buffer: Buffer) -> tuple[list[str], list[int], list[int]] | None:
    """(keys, starts, ends) of all documents in a run of members that is packed as ours are: KEY.txt alone, or
    KEY.json and KEY.txt; the keys of one length, and of letters, digits, - and _ alone. None where it is not:
    then it is for `_grouped` to say what it is."""
    plain = plain_members(buffer)
    if plain is None:
        return None
    width = bytes(plain.names[0]).find(b".")
    a_sample = 2 if bytes(plain.names[0, width:]).startswith(b".json\0") else 1
    names = plain.names[a_sample - 1 :: a_sample]
    keys = names[:, :width]
    if (
        not 1 <= width <= NAME - len(_JSON)
        or len(plain.names) % a_sample
        or not _IN_KEYS[keys].all()
        or (names[:, width : width + len(_TXT)] != _TXT).any()
        or (a_sample == 2 and (plain.names[::2, width : width + len(_JSON)] != _JSON).any())
        or (a_sample == 2 and (plain.names[::2, :width] != keys).any())
        or (keys[1:] == keys[:-1]).all(axis=1).any()
    ):
        return None
    whole = keys.tobytes().decode("ascii")
    found = [whole[at : at + width] for at in range(0, len(whole), width)]
    starts, sizes = plain.starts[a_sample - 1 :: a_sample], plain.sizes[a_sample - 1 :: a_sample]
    return found, starts.tolist(), (starts + sizes).tolist()


def _ascii_texts(buffer: Buffer, starts: list[int], ends: list[int]) -> list[str] | None:
    """The texts that lie there, decoded all at once. None where that is for `read_text` to do: some byte of
    the buffer is not ASCII, or one of them is empty or holds a zero."""
    try:
        whole = str(buffer, "ascii")
    except UnicodeDecodeError:
        return None
    texts = [whole[start:end] for start, end in zip(starts, ends)]
    return texts if all(texts) and not any("\0" in text for text in texts) else None


def samples(buffer: Buffer, reading: Reading = USUAL, *, check: bool = False) -> list[Sample]:
    """The documents in a run of members whose checksum was verified, in order, bad ones included."""
    plain = None if check or reading != USUAL else _plain_texts(buffer)
    if plain is not None:
        keys, starts, ends = plain
        if (texts := _ascii_texts(buffer, starts, ends)) is not None:
            return [_tuple(Sample, (key, text, None, 0, True)) for key, text in zip(keys, texts)]
        found = zip(keys, starts, ends)
        return [_tuple(Sample, (key, *read_text(buffer[a:b], None), 0, True)) for key, a, b in found]
    return [
        sample
        for key, _, parts in _grouped(buffer, check)
        for sample in _samples(buffer, key, parts, reading)
    ]


def scan(buffer: Buffer, reading: Reading, balance: Balance) -> Iterator[SampleExtent]:
    """Where each sample of a whole tar lies, every header verified, and what its documents are. All members
    that are none are left out of the balance; whether the documents can be used is for the caller to see."""
    for key, start, parts in _grouped(buffer, True, balance):
        texts = _texts(key, parts, reading)
        chosen = {member.start for _, member, _ in texts}
        for extension, member in parts:
            if member.start not in chosen:
                balance.leave_out(_why_not(extension, texts, reading), [member.name])
        yield SampleExtent(key, start, parts[-1][1].end, texts)


def _why_not(extension: str, texts: list[TextMember], reading: Reading) -> str:
    """Why a member of a sample is no document."""
    suffix = _suffix(extension)
    if reading.text_member is not None:
        return f"not the .{reading.text_member} that is read"
    if suffix == "json" and texts:
        return METADATA
    if suffix in TEXTS:
        return f".{suffix}, where the field {reading.text_field} of .json is read"
    return f"not text: .{suffix}" if suffix.isalnum() and len(suffix) <= 8 else "not text"
