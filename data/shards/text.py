"""From bytes to text: one rule for files, tar members, JSON lines and columns.

The same bytes give the same text wherever they stand. They are UTF-8, and are kept as they are, line ends and
all, but for U+FEFF at the very beginning: there it is the mark that some editors put before UTF-8, not a
character of the text. It is dropped of values in JSON and Parquet too, which are what somebody read from such
files, so that a text is the same document whatever it is packed into and however often.
"""

_MARK = "\ufeff"
_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""How files in encodings of Windows begin, the longest first."""
_LOOKED_AT = 512


def _is_wide(name: str) -> str:
    return f"not UTF-8 but {name}; turn it into UTF-8 first: iconv -f {name} -t UTF-8"


WIDE = _is_wide("UTF-16")
"""What is said of UTF-16 without its mark."""


class NotText(ValueError):
    """What the bytes are instead, in words that many documents may share; `at`: the byte that says so."""

    def __init__(self, what: str, at: int | None = None) -> None:
        super().__init__(what)
        self.at = at


def decode(data: bytes | memoryview) -> str:
    """The text of these bytes. NotText where they are none."""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        head = bytes(data[:4])  # a mark and something behind it
        wide = next((name for mark, name in _WIDE.items() if head.startswith(mark) and len(head) == 4), None)
        raise (NotText(_is_wide(wide)) if wide else NotText("not UTF-8", error.start)) from None
    if "\0" in text[:_LOOKED_AT] and is_wide(bytes(data[:_LOOKED_AT])):
        raise NotText(WIDE)
    return unmarked(text) if text.startswith(_MARK) else text  # a call less for nearly all


def is_wide(head: bytes) -> bool:
    """Whether UTF-8 that begins so is rather UTF-16 without its mark."""
    return b"\0" in head[:_LOOKED_AT] and _looks_wide(head[:_LOOKED_AT])


def mark_bytes(head: bytes) -> int:
    """Bytes of the mark of an encoding at the beginning of these, as `unmarked` takes it away."""
    mark, length = _MARK.encode(), 0
    while head.startswith(mark, length):
        length += len(mark)
    return length


def unmarked(text: str) -> str:
    """A text without the mark of an encoding at its beginning."""
    return text.lstrip(_MARK) if text.startswith(_MARK) else text


def _looks_wide(head: bytes) -> bool:
    """UTF-16 without its mark, as English text in it looks: every second byte is zero, and no other is."""
    even, odd = head[::2], head[1::2]
    if len(odd) < 4:
        return False
    return (not odd.strip(b"\0") and b"\0" not in even) or (not even.strip(b"\0") and b"\0" not in odd)
