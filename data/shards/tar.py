"""Tar members found by their headers, in memory, and the samples that they form.

A unit of a shard is a run of tar bytes that begins at a header. Finding the documents in it must cost far
less than encoding them, so the headers are read here by a few slices each instead of by the tarfile module
(which was measured at a tenth of this speed). What other people's tools write is understood: ustar
with its prefix field, GNU long names (`L`, `K`), PAX headers (`x`, `g`), octal and base-256 sizes.

A sample is, as WebDataset has it, a run of consecutive members that share a key: the name up to the first dot
of its last part. A member's name is only ever compared; nothing is written to disk under it.
"""

import json
import re
import struct
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

from data.shards.text import NotText, decode, unmarked

BLOCK = 512
_ZEROS = bytes(BLOCK)
_HEADER = struct.Struct("100s 24x 12s 20x c 100x 6s 82x 155s 12x")
"""name, size, type, magic, prefix"""
_FILES = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders, FIFOs."""
_EXTRA = (b"L", b"K", b"x", b"g", b"S")
"""Headers that say something of the next member; and sparse files, which are refused."""
_FOREIGN = re.compile(rb"BZh[1-9]1AY&SY|\xfd7zXZ\0")
"""How bzip2 and xz begin, to their 10th and 6th byte: the name of a first member may begin with BZh too."""
_TEXT_SUFFIXES = ("txt", "md", "py", "json")

Buffer = bytes | memoryview | mmap
_tuple = tuple.__new__
"""Makes a NamedTuple at half the cost of its constructor."""


class TarTrouble(Exception):
    """What is wrong with the bytes of a tar and at which offset."""


class Member(NamedTuple):
    """A regular file in a tar. Offsets in bytes from the start of the buffer."""

    name: str
    start: int
    """Of its first header, long-name and PAX headers included."""
    data: int
    size: int


class Sample(NamedTuple):
    """A document with its key. `text` is None where `problem` says why there is none."""

    key: str
    text: str | None
    problem: str | None


class Extent(NamedTuple):
    """Where a sample lies in the buffer, and the UTF-8 length of its text (0 where it has none)."""

    key: str
    start: int
    text_bytes: int
    problem: str | None


def members(buffer: Buffer, *, check: bool = True) -> Iterator[Member]:
    """The regular files of a tar, or of a run of its members, in order; stops at the end mark.

    `check` verifies each header's checksum: needed where nothing else vouches for the bytes.
    Raises TarTrouble for a damaged header and for a member that the buffer does not hold to its end.
    """
    position = start = 0
    end = len(buffer)
    name: str | None = None
    size: int | None = None
    while position < end:
        if position + BLOCK > end:
            raise TarTrouble(f"cut off at byte {end}, inside the header that begins at {position}")
        first, digits, kind, magic, prefix = _HEADER.unpack_from(buffer, position)
        if not first[0] and bytes(buffer[position : position + BLOCK]) == _ZEROS:
            break
        if check:
            _verify_header(bytes(buffer[position : position + BLOCK]), position)
        length = _number(digits, position) if size is None else size
        data = position + BLOCK
        if kind in _WITHOUT_DATA:
            length = 0
        if data + length > end:
            which = (name or _name(first, magic, prefix))[:80]
            raise TarTrouble(
                f"cut off at byte {end}: the member at byte {position} ends at {data + length} ({which})"
            )
        position = data + (length + BLOCK - 1) // BLOCK * BLOCK
        if kind in _FILES:
            full = _name(first, magic, prefix) if name is None else name
            yield _tuple(Member, (full, start, data, length))
        elif kind in _EXTRA:
            name, size = _extra(kind, bytes(buffer[data : data + length]), data - BLOCK, name, size)
            continue
        start = position
        name = size = None


def _extra(
    kind: bytes, data: bytes, position: int, name: str | None, size: int | None
) -> tuple[str | None, int | None]:
    """(name, size) of the member to come, after the extra header at `position`."""
    if kind == b"S":
        raise TarTrouble(f"the member at byte {position} is a GNU sparse file, which is not supported")
    if kind == b"L":
        return _decode(data.rstrip(b"\0")), size
    if kind == b"K":  # a link's target
        return name, size
    records = _pax(data, position)
    if kind == b"g":  # for all that follow: a unit further on would not see it
        if records.keys() & {b"path", b"size"}:
            raise TarTrouble(f"a global PAX header at byte {position} sets path or size for all members")
        return name, size
    if b"path" in records:
        name = _decode(records[b"path"])
    if b"size" in records:
        if not records[b"size"].isdigit() or len(records[b"size"]) > 20:  # Python reads no 5 000 digits
            raise TarTrouble(f"the PAX header at byte {position} is damaged")
        size = int(records[b"size"])
    return name, size


def has_end_mark(buffer: Buffer, end: int) -> bool:
    """Whether zeros follow the last member, which ends at `end`, as they do in a tar that was closed."""
    return bytes(buffer[end : end + BLOCK]) == _ZEROS


def _verify_header(header: bytes, position: int) -> None:
    """The header's own checksum: the sum of its bytes, the checksum field read as blanks."""
    if not position and _FOREIGN.match(header):
        raise TarTrouble(
            "is packed by bzip2 or xz, which is not supported; pack it anew as .tar.gz or .tar.zst"
        )
    total = sum(header) - sum(header[148:156]) + 8 * 0x20
    if total != _number(header[148:156], position):
        raise TarTrouble(f"no tar header at byte {position}: its checksum is wrong")


def _number(field: bytes, position: int) -> int:
    """A numeric field: octal digits, or base 256 where the first bit is set."""
    try:
        number = int(field[:11], 8)  # the common form: eleven digits and a zero byte
    except ValueError:
        if field[0] & 0x80:
            return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        try:
            number = int(field.split(b"\0", 1)[0] or b"0", 8)
        except ValueError:
            number = -1
    if number < 0:  # int() takes a sign, and a size below 0 would lead back to headers already read
        raise TarTrouble(f"no tar header at byte {position}: a number in it is {field!r}")
    return number


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _name(name: bytes, magic: bytes, prefix: bytes) -> str:
    name = name.split(b"\0", 1)[0]
    if prefix[0] and magic == b"ustar\0":  # GNU keeps other things in the prefix field
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "backslashreplace")


def _pax(data: bytes, position: int) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of a PAX header."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        blank = data.find(b" ", position)
        try:
            length = int(data[position:blank])
            if length <= blank - position or position + length > len(data):
                raise ValueError
            key, value = data[blank + 1 : position + length - 1].split(b"=", 1)
        except ValueError:
            raise TarTrouble(f"the PAX header at byte {position} is damaged") from None
        records[key] = value
        position += length
    return records


def split_name(name: str) -> tuple[str, str] | None:
    """(key, extension) of a member, or None where WebDataset too passes it over: no key, no dot, `__…__`."""
    base = name.rfind("/") + 1
    dot = name.find(".", base)
    if dot <= base or (name.startswith("__") and name.endswith("__")):
        return None
    return name[:dot], name[dot + 1 :]


def _grouped(buffer: Buffer, check: bool) -> Iterator[tuple[str, int, list[tuple[str, Member]]]]:
    """(key, start, [(extension, member)]) of each sample."""
    key: str | None = None
    parts: list[tuple[str, Member]] = []
    start = at = 0
    stem = "\0"
    """Key and dot of the sample at hand: a member that begins so belongs to it, and need not be split."""
    for member in members(buffer, check=check):
        name = member[0]
        if name.startswith(stem) and "/" not in name[at:] and stem[:2] != "__":
            parts.append((name[at:], member))
            continue
        split = split_name(name)
        if split is None:
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


def _text_member(parts: list[tuple[str, Member]], text_field: str | None) -> tuple[str, Member] | None:
    """The member that holds the text: .txt, .md, .py, then .json; .json alone where a field was asked for."""
    for suffix in ("json",) if text_field is not None else _TEXT_SUFFIXES:
        for extension, member in parts:
            if extension == suffix or extension.endswith("." + suffix):
                return suffix, member
    return None


def _text(
    buffer: Buffer, parts: list[tuple[str, Member]], text_field: str | None
) -> tuple[str | None, str | None]:
    """(text, problem) of a sample; exactly one of them is None."""
    found = _text_member(parts, text_field)
    if found is None:
        return None, "no text"
    suffix, (name, _, start, size) = found
    try:
        text = decode(buffer[start : start + size])
        if suffix == "json":
            record = json.loads(text)
            value = record.get(text_field or "text") if isinstance(record, dict) else None
            if not isinstance(value, str):
                return None, f"no text: {name[-60:]} has no field '{text_field or 'text'}' of text"
            text = unmarked(value)
            text.encode()  # JSON can spell half of a surrogate pair, which is no text
    except NotText as error:
        return None, str(error)
    except UnicodeError:
        return None, "not UTF-8"
    except (ValueError, RecursionError):
        return None, f"no text: {name[-60:]} is not JSON"
    return (text, None) if text else (None, "no text: it is empty")


def samples(buffer: Buffer, text_field: str | None = None, *, check: bool = False) -> list[Sample]:
    """The documents in a run of members whose checksum was verified, in order, bad ones included."""
    return [
        _tuple(Sample, (key, *_text(buffer, parts, text_field))) for key, _, parts in _grouped(buffer, check)
    ]


def extents(buffer: Buffer, text_field: str | None = None) -> Iterator[Extent]:
    """Where each sample of a whole tar lies, every header verified and every text read."""
    for key, start, parts in _grouped(buffer, True):
        text, problem = _text(buffer, parts, text_field)
        yield Extent(key, start, 0 if text is None else len(text.encode()), problem)


def members_end(buffer: Buffer, last_start: int) -> int:
    """Offset just behind the last member, given where the last sample starts: the end of the last unit."""
    end = last_start
    for member in members(memoryview(buffer)[last_start:], check=False):
        end = last_start + member.data + (member.size + BLOCK - 1) // BLOCK * BLOCK
    return end
