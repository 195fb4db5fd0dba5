"""Which models lose text, and how much of the original a token stands for where one does.

Llama's and Mistral's models, Gemma's BPE and those that headrace trains lose nothing: their pieces' texts,
side by side, are the text. T5's, ALBERT's and XLNet's do: they fold characters into others (NFKC, lower
case), drop line ends and runs of blanks, and have one piece for whatever they cannot spell. There a piece's
own text says little of what it stands for, and SentencePiece's offsets into the original say it.
"""

import numpy as np

from data.tokenization.model_proto import ModelProto


def is_lossless(proto: ModelProto) -> bool:
    """Whether a model's settings alone say that every text comes back as it was. A model of which they do not
    may still lose nothing of a corpus: data/tokenization/check.py measures."""
    normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
    changes = normalizer.precompiled_charsmap or proto.denormalizer_spec.precompiled_charsmap
    blanks = normalizer.escape_whitespaces and not normalizer.remove_extra_whitespaces
    searched = trainer.model_type in (trainer.UNIGRAM, trainer.BPE)
    spells_all = any(piece.type == piece.BYTE for piece in proto.pieces)  # all 256, or SentencePiece refuses
    return bool(spells_all and searched and blanks and not changes and not trainer.treat_whitespace_as_suffix)


def bytes_between(text: str, ends: np.ndarray) -> np.ndarray:
    """int64 [n]: UTF-8 bytes of a text from each of its borders to the next. ends: int [n], rising, in
    characters; what lies behind the last goes to it, so the sum is that of the text."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    before = np.append(0, np.cumsum(widths))[np.asarray(ends, dtype=np.int64)]
    if len(before):
        before[-1] = widths.sum()
    return np.diff(before, prepend=0)
