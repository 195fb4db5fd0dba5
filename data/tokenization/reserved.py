"""What SentencePiece's trainer keeps for itself, and how text that has it is learned from all the same.

Measured on sentencepiece 0.2.3; its encoder has none of these limits:

    U+2585            its mark of a rare character: a chunk that has one is left out, whole
    U+001F            its mark of a border, which no piece may hold or reach over
    a control name    text that spells one becomes a border: nothing of it is learned
    line ends         are taken off the end of each chunk

The first two are learned under the name of a character that no text should have (Unicode's noncharacters)
and get their own back in the model. A border behind the first character of a name leaves it the text that it
is, and one behind the last line end keeps that. What no piece can hold becomes a border, and is counted: NUL,
U+2581 (a blank, to SentencePiece) and the two stand-ins. They stay what they are to any tokenizer of
headrace: their bytes.
"""

import re
from collections import Counter
from collections.abc import Iterable

from data.tokenization.model_proto import ModelProto
from data.tokenization.whitespace import BLANK

_BORDER = "\x1f"
_STAND_INS = {"\u2585": "\ufdd0", _BORDER: "\ufdd1"}
_NEVER = "\0" + BLANK + "".join(_STAND_INS.values())
_ANY = re.compile(f"[{''.join(_STAND_INS)}{_NEVER}]")
_LEARNABLE = str.maketrans(_STAND_INS | dict.fromkeys(_NEVER, _BORDER))
_BACK = str.maketrans({stand_in: own for own, stand_in in _STAND_INS.items()})


class Learnable:
    """Text in the form in which all of it is learned. `names`: the pieces that are not of text."""

    def __init__(self, names: Iterable[str]) -> None:
        longest_first = sorted({*names, *(f"<0x{value:02X}>" for value in range(256))}, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)))
        self.never: Counter[str] = Counter()
        """Characters that no piece can hold, as U+XXXX, and how many of each there were."""

    def __call__(self, chunk: str) -> str:
        """A chunk as SentencePiece is to have it."""
        if _ANY.search(chunk):
            for character in _NEVER:
                if found := chunk.count(character):
                    self.never[f"U+{ord(character):04X}"] += found
            chunk = chunk.translate(_LEARNABLE)
        chunk = self._names.sub(lambda name: name[0][0] + _BORDER + name[0][1:], chunk)
        return chunk + _BORDER if chunk.endswith(("\n", "\r")) else chunk


def restore(proto: ModelProto) -> None:
    """Give the characters that were learned under another name their own, in the pieces of a new model."""
    for piece in proto.pieces:
        if piece.type == piece.NORMAL:
            piece.piece = piece.piece.translate(_BACK)
