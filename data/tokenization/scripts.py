"""What the characters of a piece say of words: whether their script writes blanks between them, and whether a
character belongs to the one before it."""

import unicodedata
from bisect import bisect_right

_IDEOGRAPHS = (
    *((0x2E80, 0x2FDF), (0x3220, 0x3247), (0x3280, 0x32B0), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xA000, 0xA4CF), (0xF900, 0xFAFF), (0x17000, 0x18DFF), (0x20000, 0x3FFFF)),
)
"""Chinese characters, Yi, Tangut."""
_LETTERS = (
    *((0x0E00, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Tibetan and Burmese, Khmer
    *((0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F)),  # Tai Le, New Tai Lue; Tai Tham; Balinese
    *((0x3000, 0x3219), (0x3248, 0x327F), (0x32B1, 0x33FF)),  # kana, bopomofo, East Asian punctuation
    *(
        (0xA980, 0xA9FF),
        (0xAA60, 0xAADF),
        (0xFE30, 0xFE4F),
        (0xFF00, 0xFF9F),
    ),  # Javanese, Tai Viet, wide
    *((0x11700, 0x1174F), (0x1AFF0, 0x1B16F)),  # Ahom, older kana
)
_JOINED = frozenset("\u0e33\u0eb3\u200c\u200d々〻ーゝゞヽヾｰﾞﾟぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
_SKIN = range(0x1F3FB, 0x1F400)
_WORD = 3
"""Letters of a piece that is a word by itself where a script has no blanks."""


def _within(ranges: tuple[tuple[int, int], ...], character: str) -> bool:
    at = bisect_right(ranges, (ord(character), 0x110000)) - 1
    return at >= 0 and ord(character) <= ranges[at][1]


def is_unspaced(piece: str) -> bool:
    """Whether a piece begins, behind its blanks, in a script that has none between words."""
    first = piece.lstrip()[:1]
    return bool(first) and (_within(_LETTERS, first) or _within(_IDEOGRAPHS, first))


def is_joined(piece: str) -> bool:
    """Whether a piece goes on with the character before it: a combining mark, a small kana, a skin colour."""
    first = piece[:1]
    return unicodedata.category(first)[0] == "M" or first in _JOINED or ord(first) in _SKIN


def begins_word(piece: str) -> bool:
    """Whether a word begins with this piece, whatever stands before it."""
    if piece[0].isspace() or _within(_IDEOGRAPHS, piece[0]):
        return True
    letters = sum(not is_joined(character) for character in piece)
    return letters >= _WORD and is_unspaced(piece) and not is_joined(piece)


def byte_begins_word(value: int) -> bool:
    """The same of a byte of UTF-8: a blank, or the first of kana, an ideograph, East Asian punctuation."""
    return value in b" \t\n\r" or is_unspaced_byte(value)


def is_unspaced_byte(value: int) -> bool:
    """Whether a byte of UTF-8 is the first of such a character."""
    return 0xE3 <= value <= 0xE9


def is_joined_byte(value: int) -> bool:
    """Whether a byte of UTF-8 goes on with a character."""
    return 0x80 <= value <= 0xBF
