"""The fields of a tar header: numbers, names, checksum, and the records of PAX headers.

What other people's tools write is understood: ustar with its prefix field, octal and base-256 numbers. A name
is only ever compared; nothing is written to disk under it.
"""

import re
from mmap import mmap

BLOCK = 512
Buffer = bytes | memoryview | mmap
_FOREIGN = {
    "packed by bzip2 or xz": rb"BZh[1-9]1AY&SY|\xfd7zXZ\0",
    "a zip file": rb"PK\x03\x04|PK\x05\x06",
    "a 7z or rar file": rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07",
    "packed by lz4": rb"\x04\x22\x4d\x18",
    "a Parquet file: 'headrace data pack' reads those": rb"PAR1",
    "a page, not a shard (HTML)": rb"(?i)\s*<(!doctype|html)",
    "a pointer of git-lfs: 'git lfs pull' brings the file": rb"version https://git-lfs",
}
"""How files begin that are no tars, to a byte that the name of a first member hardly has too."""


class TarTrouble(Exception):
    """What is wrong with the bytes of a tar and at which offset."""


def padded(length: int) -> int:
    """Bytes that `length` bytes of content take in a tar."""
    return (length + BLOCK - 1) // BLOCK * BLOCK


def verify_header(header: bytes, position: int) -> None:
    """TarTrouble unless the header's own checksum holds."""
    if checksum_of(header) != number_of(header[148:156], position):
        raise TarTrouble(f"no tar header at byte {position}: its checksum is wrong")


def refuse_foreign(head: bytes) -> None:
    """TarTrouble where a file that begins so is something else that people have."""
    for what, beginning in _FOREIGN.items():
        if re.match(beginning, head):
            raise TarTrouble(f"is {what}; expected a .tar, .tar.gz or .tar.zst")


def checksum_of(header: bytes) -> int:
    """The sum of a header's bytes, the checksum field read as blanks."""
    return sum(header) - sum(header[148:156]) + 8 * 0x20


def is_header(buffer: Buffer, position: int) -> bool:
    """Whether a header stands there, by its checksum."""
    header = bytes(buffer[position : position + BLOCK])
    try:
        return len(header) == BLOCK and checksum_of(header) == number_of(header[148:156], position)
    except TarTrouble:
        return False


def number_of(field: bytes, position: int) -> int:
    """A numeric field of the header at `position`: octal digits, or base 256 where the first bit is set."""
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


def decoded(name: bytes) -> str:
    """A name as text, whatever its bytes."""
    return name.decode("utf-8", "backslashreplace")


def name_of(name: bytes, magic: bytes, prefix: bytes) -> str:
    """The name in the header's own fields."""
    name = name.split(b"\0", 1)[0]
    if prefix[0] and magic == b"ustar\0":  # GNU keeps other things in the prefix field
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "backslashreplace")


def pax_records(data: bytes, header: int) -> list[tuple[bytes, bytes]]:
    """(key, value) of the records "LENGTH KEY=VALUE\\n" of the PAX header at byte `header`, in order."""
    records = []
    position = 0
    while position < len(data) and data[position]:
        blank = data.find(b" ", position)
        try:
            length = int(data[position:blank])
            if length <= blank - position or position + length > len(data):
                raise ValueError
            key, value = data[blank + 1 : position + length - 1].split(b"=", 1)
        except ValueError:
            raise TarTrouble(f"the PAX header at byte {header} is damaged") from None
        records.append((key, value))
        position += length
    return records
