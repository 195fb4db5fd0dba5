"""A text too long to be held: where it lies on the disk, verified to be UTF-8.

A document of many megabytes is packed from a file, a part at a time: its own file, where that is plain text,
or one that its text was unpacked into. Such a file belongs to the text and goes when the text was packed.
"""

import codecs
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.durable import writing
from data.errors import BadInput

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class LongText:
    """`size` bytes of UTF-8 in a file, from `start` on. temporary: the file was made for it alone."""

    path: str
    start: int
    size: int
    temporary: bool = False

    def __len__(self) -> int:
        return self.size

    def read(self, offset: int, length: int) -> bytes:
        """Some of its bytes. BadInput where the file is not what it was."""
        with open(self.path, "rb") as file:
            data = os.pread(file.fileno(), length, self.start + offset)
        if len(data) < length:
            raise BadInput(f"{self.path}: has become shorter while it was packed; pack it again")
        return data

    def taken(self) -> bytes:
        """All of it, in place of the file."""
        data = self.read(0, self.size)
        self.done()
        return data

    def done(self) -> None:
        """It was packed: a file that was made for it is removed."""
        if self.temporary:
            os.unlink(self.path)


def put_aside(path: Path, chunks: Iterable[bytes]) -> None:
    """Write these into a new file. BadInput where the disk refuses: that is no fault of the text, which would
    be lost if it were counted as one. Whatever the chunks raise passes through."""
    with writing(path):
        file = path.open("wb")
    with file:
        for chunk in chunks:
            with writing(path):
                file.write(chunk)
                file.flush()


def not_utf8_at(file: BinaryIO) -> int | None:
    """The offset of the first byte from the file's position on that is not UTF-8, None where all is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while chunk := file.read(_CHUNK):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            return offset - held + error.start
        offset += len(chunk)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return offset - len(decoder.getstate()[0]) + error.start
    return None
