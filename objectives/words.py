"""Which tokens are a word together, for `whole_word`: also where a script writes no blanks between words.

    the|mill's|wheel    a word runs from one piece that begins one (TokenizerView.word_start) to the next
    水|推动|磨坊|API     ideographs: each piece is one; and one begins where the kind of script changes
    กา รบ้ าน|ของ เ      scripts of letters without blanks: runs of at most _UNSPACED tokens

No word is longer than _LONGEST tokens, nor, above _SHORT, than what is to be chosen of its segment: else
hashes, base64, DNA or a line of Thai are chosen as a whole or not at all, and the share is right over
thousands of documents only. What is longer is cut into runs of even length, never inside a character nor
before a combining mark.
"""

import numpy as np

from objectives.example import TokenizerView
from objectives.ragged import positions_in, starts_of

_LONGEST = 32
_UNSPACED = 4
_SHORT = 3


def word_starts(
    text: np.ndarray,
    sizes: np.ndarray,
    tokenizer: TokenizerView,
    wanted: np.ndarray,
    seams: np.ndarray | None = None,
) -> np.ndarray:
    """bool [Σ sizes]: where words begin in ragged text, at the first token of each segment too.

    wanted: float64 [segments], how many tokens are to be chosen of each. seams: positions at which a word
    begins whatever stands there."""
    forced = starts_of(sizes) if seams is None else np.concatenate([starts_of(sizes), seams])
    joined = tokenizer.joined[text]
    joined[forced] = False
    starts = tokenizer.word_start[text]
    starts[forced] = True
    unspaced = tokenizer.unspaced[text]
    if unspaced.any():
        free = np.flatnonzero(~joined)  # those before which there may be a border
        other = np.flatnonzero(unspaced[free[1:]] != unspaced[free[:-1]]) + 1
        starts[free[other]] = True
    begins = np.flatnonzero(starts)
    lengths = np.diff(begins, append=len(text))
    words = np.diff(np.searchsorted(begins, np.append(0, np.cumsum(sizes))))
    most = np.maximum(wanted.astype(np.int64), _SHORT)
    limits = np.minimum(np.where(unspaced[begins], _UNSPACED, _LONGEST), np.repeat(most, words))
    long = np.flatnonzero(lengths > limits)
    if len(long):
        begins, lengths = begins[long], lengths[long]
        runs = -(-lengths // limits[long])
        inside = positions_in(lengths)
        position = inside + np.repeat(begins, lengths)
        run = inside * np.repeat(runs, lengths) // np.repeat(lengths, lengths)
        free = ~joined[position]
        position, run = position[free], run[free]
        starts[position[1:][run[1:] != run[:-1]]] = True
    return starts
