"""A JSON line too long to be held: its text is taken out of it by way of the disk.

What json.loads says of a line is what counts, whatever its length. So the line is reduced: each long string
in it is replaced by a short one that stands for it, json.loads reads what is left, and the string that turns
out to be the text is decoded a piece at a time, into a file. The other long strings are decoded too, for a
line is JSON as a whole or not at all.

    {"id": 7, "html": "…80 MB…", "text": "…40 MB…"}  ──▶  {"id": 7, "html": "…#0", "text": "…#1"}
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from data.shards.parts import whole_characters
from data.shards.text import WIDE, NotText, is_wide, unmarked
from data.sources.long_text import LongText, put_aside

BLANK = "blank"
"""The problem of a line that is passed over."""
_LONG = 1 << 16
_CHUNK = 1 << 20
_STOP = re.compile(rb'["\\]')
_WHOLE = re.compile(
    rb"(?:[^\\]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{4}|\\[^u])*", re.DOTALL
)
"""The characters and escapes of a string that are whole, pairs of surrogates together."""
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}$")
_BACKSLASH = ord("\\")


def text_of_long_line(
    line: Path, field: str, scratch: Path, most: int
) -> tuple[str | LongText | None, str | None]:
    """(text, problem) of the JSON line in a file, exactly one of them None. scratch: a folder for the text;
    most: bytes that all but its long strings may have."""
    mark, path = f"{uuid.uuid4()}#", scratch / f"text-{uuid.uuid4().hex}"
    try:
        with line.open("rb") as file:
            rest, strings = _reduced(file, mark, most)
            if rest is None:
                return None, "a line with more beside its text than --memory-mib allows"
            if rest.isspace():
                return None, BLANK
            record = json.loads(rest.decode("utf-8-sig"))
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str):
                return None, f"no text in field '{field}'"
            wanted = int(value.removeprefix(mark)) if value.startswith(mark) else None
            for number, (start, stop) in enumerate(strings):
                if number != wanted:
                    for _ in _decoded(file, start, stop):
                        pass
            if wanted is None:
                value.encode()
                text = unmarked(value)
                return (text, None) if text else (None, "empty")
            put_aside(path, _as_text(_decoded(file, *strings[wanted])))
            if size := path.stat().st_size:
                return LongText(str(path), 0, size, temporary=True), None
            problem = "empty"
    except NotText as error:
        problem = str(error)
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except UnicodeEncodeError:
        problem = "not UTF-8 (half of a surrogate pair)"
    except (ValueError, RecursionError):
        problem = "not JSON"
    path.unlink(missing_ok=True)
    return None, problem


def _as_text(pieces: Iterable[str]) -> Iterator[bytes]:
    """The bytes of a text that comes in pieces. NotText where it is none."""
    for number, piece in enumerate(pieces):
        data = (piece if number else unmarked(piece)).encode()
        if not number and is_wide(data):
            raise NotText(WIDE)
        yield data


def _reduced(file: BinaryIO, mark: str, most: int) -> tuple[bytes | None, list[tuple[int, int]]]:
    """(the line with marks in place of its long strings, where the contents of these lie); None for a line
    that is longer than `most` even so."""
    rest = bytearray()
    strings: list[tuple[int, int]] = []
    opened = begin = 0  # where the string at hand begins, in `rest` and in the file
    inside = escaped = False
    offset = 0
    while chunk := file.read(_CHUNK):
        at = taken = 0
        if escaped:  # its first byte belongs to a backslash at the end of the last chunk
            at, escaped = 1, False
        while stop := _STOP.search(chunk, at):
            at = stop.end()
            if chunk[at - 1] == _BACKSLASH:
                escaped = inside and at == len(chunk)
                at += inside
                continue
            rest += chunk[taken:at]
            taken = at
            if inside and offset + at - 1 - begin > _LONG:
                del rest[opened:]
                rest += f'{mark}{len(strings)}"'.encode()
                strings.append((begin, offset + at - 1))
            inside = not inside
            opened, begin = len(rest), offset + at
        rest += chunk[taken:]
        offset += len(chunk)
        if inside and offset - begin > _LONG:
            del rest[opened:]  # it is long, and only its place is kept
        if len(rest) > most:
            return None, []
    return bytes(rest), strings


def _decoded(file: BinaryIO, start: int, stop: int) -> Iterator[str]:
    """The content of a JSON string, a piece at a time. ValueError where it is none."""
    held, position = b"", start
    while position < stop or held:
        file.seek(position)
        fresh = file.read(min(_CHUNK, stop - position))
        position += len(fresh)
        piece, held = held + fresh, b""
        if position < stop:
            end = _whole(piece)
            piece, held = piece[:end], piece[end:]
        yield json.loads('"' + piece.decode() + '"')


def _even(piece: bytes, end: int) -> bool:
    """Whether an even number of backslashes ends there, so that one that follows begins an escape."""
    return (end - len(piece[:end].rstrip(b"\\"))) % 2 == 0


def _whole(piece: bytes) -> int:
    """Where in a part of a string that goes on its last whole character ends."""
    found = _WHOLE.match(piece)
    end = found.end() if found else 0
    if _HALF.search(piece, max(end - 6, 0), end) and _even(piece, end - 6):  # its other half is to come
        end -= 6
    return whole_characters(piece[:end]) or len(piece)
