"""Where a long text is cut into parts, so that a document of any length costs bounded memory.

A part is at most PART bytes. It ends behind the last line end in them; where there is none, behind the last
blank; where there is none, before a character that combines with none before it, so that no letter loses its
marks. Where a part ends depends on the bytes before it alone, so a text is cut alike while it is packed from
a stream and while it is indexed in a tar.
"""

import unicodedata
from collections.abc import Callable, Iterator

PART = 1 << 20
"""Most bytes of text of a part."""
_BLANKS = tuple(
    blank.encode() for blank in (" ", "\t", "\r", "\f", "\v", "\u2028", "\u2029", "\u3000", "\xa0")
)
_TAIL = 1 << 12
_JOINER = "\u200d"
_VIRAMA = 9
"""The combining class of the mark that joins the letters around it."""


def parts(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each part of a text of `size` bytes. read(offset, length) gives its bytes."""
    start = 0
    while start < size:
        window = read(start, min(PART, size - start))
        if start + len(window) < size:
            window = window[: cut(window)]
        yield start, window
        start += len(window)


def cut(window: bytes) -> int:
    """How many of these bytes, which more text follows, are the part: at least one."""
    end = window.rfind(b"\n") + 1
    if end:
        return end
    end = max(at + len(blank) if (at := window.rfind(blank)) >= 0 else 0 for blank in _BLANKS)
    return end or _before_a_character(window)


def _before_a_character(window: bytes) -> int:
    for tail in (_TAIL, len(window)):
        first = max(len(window) - tail, 0)
        while first < len(window) and window[first] & 0xC0 == 0x80:  # inside a character
            first += 1
        text = window[first:].decode("utf-8", "ignore")  # the last character may be cut off
        for at in range(len(text) - 1, 0, -1):
            if not _combines(text[at - 1], text[at]):
                return first + len(text[:at].encode())
    return whole_characters(window)


def _combines(before: str, character: str) -> bool:
    """Whether a character belongs to the one before it (Unicode's grapheme clusters, UAX 29, a little
    wider)."""
    if unicodedata.category(character).startswith("M") or character in "\u200c\u200d\u0e33\u0eb3":
        return True  # a mark, a joiner, the vowels of Thai and Lao that stand behind
    if before == _JOINER or unicodedata.combining(before) == _VIRAMA:
        return True
    if "\U0001f3fb" <= character <= "\U0001f3ff":  # the colour of a skin
        return True
    if "\U0001f1e6" <= character <= "\U0001f1ff":  # half of a flag; which half, only its run would tell
        return "\U0001f1e6" <= before <= "\U0001f1ff"
    return "\u1160" <= character <= "\u11ff"  # vowels and finals of Hangul syllables spelt out


def whole_characters(window: bytes) -> int:
    """Where in these bytes the last character that is whole ends; all of them where they are no UTF-8."""
    end = len(window)
    while end > len(window) - 4 and end and window[end - 1] & 0xC0 == 0x80:
        end -= 1
    lead = window[end - 1] if end else 0
    wanted = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
    return len(window) if len(window) - end + 1 >= wanted or end <= 1 else end - 1
