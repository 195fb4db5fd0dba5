"""A tokenizer small enough to work out by hand: what objectives may know of one, as a plain value.

ids 0-8 pad, begin, end, mask, cls, sep, fim prefix, middle, suffix · 9-11 modes R, S, X · 12-… sentinels
ids 100-355 the bytes · 400 " " · 401-426 a … z · 427 "th" · 428 " a" · 429 " b" · 430 " the"
"""

import numpy as np

from objectives.example import ControlIds

BYTE = 100
PIECES = {400: " ", **{401 + i: chr(97 + i) for i in range(26)}, 427: "th", 428: " a", 429: " b", 430: " the"}
SIZE = 431


class FakeTokenizer:
    """Greedy longest match over PIECES; anything else is spelt in bytes. blank: one is put before a document
    and taken off again, as Llama's and T5's tokenizers do."""

    def __init__(self, sentinels: int = 8, *, blank: bool = False) -> None:
        self._blank = " " if blank else ""
        modes = {"R": 9, "S": 10, "X": 11}
        self.control = ControlIds(0, 1, 2, 3, 4, 5, 6, 7, 8, modes, tuple(range(12, 12 + sentinels)))
        self.size = SIZE
        self.ordinary = np.arange(400, SIZE, dtype=np.int32)
        self.word_start = np.zeros(SIZE, dtype=bool)
        self.word_start[[400, 428, 429, 430]] = True
        self.joined, self.unspaced = np.zeros((2, SIZE), dtype=bool)
        self.joined[BYTE + 0x80 : BYTE + 0xC0] = True
        self.unspaced[BYTE + 0xE3 : BYTE + 0xEA] = self.word_start[BYTE + 0xE3 : BYTE + 0xEA] = True
        self.spread = np.ones(SIZE, dtype=np.int32)
        for token, piece in PIECES.items():
            self.spread[token] = len(piece)
        self._ids = {piece: token for token, piece in PIECES.items()}

    def encode_documents(self, texts: list[str], *, inside: bool = False) -> list[np.ndarray]:
        return [self.encode(text if inside else self._blank + text) for text in texts]

    def encode(self, text: str) -> np.ndarray:
        ids: list[int] = []
        while text:
            for length in (4, 2, 1):
                if text[:length] in self._ids:
                    ids.append(self._ids[text[:length]])
                    text = text[length:]
                    break
            else:
                ids += [BYTE + byte for byte in text[0].encode()]
                text = text[1:]
        return np.array(ids, dtype=np.int32)

    def decode(self, tokens: np.ndarray, *, inside: bool = False) -> str:
        data = b"".join(
            bytes([token - BYTE]) if BYTE <= token < BYTE + 256 else PIECES[token].encode()
            for token in np.asarray(tokens).tolist()
        )
        text = data.decode(errors="replace")
        return text if inside else text.removeprefix(self._blank)
