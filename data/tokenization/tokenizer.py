"""A SentencePiece model as the objectives see it: control ids that no text can produce, and tables by id.

Models that headrace trained hold their control ids themselves. Foreign ones (Llama- and T5-style) are taken
as they are: what they have (begin, end, pad, sentinels …) is used, what they lack is appended behind their
vocabulary. Two things that SentencePiece does to text are undone here:

- A *user-defined* piece is produced by text that spells it. Those that stand for control are made control
  pieces in memory, so the text that spells one is encoded as the ordinary characters it is made of.
- U+2581, with which SentencePiece writes a blank, would come back as a blank. Where the model has byte
  pieces, it is encoded by its three bytes, which decode to itself (data/tokenization/whitespace.py).

One thing stays as the model has it: a *dummy prefix*, the blank that Llama's and T5's put before a text and
take away from the front of what they decode. `inside` encodes and decodes text that goes on from other text,
where that blank would be one too many or one too few.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import SentencePieceProcessor

from data.tokenization import scripts
from data.tokenization.losses import bytes_between, is_lossless
from data.tokenization.model_file import parse_model, processor_of, read_model
from data.tokenization.model_proto import ModelProto
from data.tokenization.whitespace import BLANK, has_edges, unescaped, without_edges
from objectives.example import ControlIds

SENTINELS = 256
MODES = ("R", "S", "X")

_Piece = ModelProto.SentencePiece
_CONTROL, _USER, _BYTE, _UNUSED, _UNKNOWN = (
    _Piece.CONTROL,
    _Piece.USER_DEFINED,
    _Piece.BYTE,
    _Piece.UNUSED,
    _Piece.UNKNOWN,
)

ROLES: dict[str, tuple[str, ...]] = {
    "begin": ("<s>", "<bos>", "<|begin_of_text|>", "[BOS]"),
    "end": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]"),
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
    "mask": ("<mask>", "[MASK]"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "fim_prefix": ("<fim_prefix>", "<|fim_prefix|>", "▁<PRE>", "[PREFIX]"),
    "fim_middle": ("<fim_middle>", "<|fim_middle|>", "▁<MID>", "[MIDDLE]"),
    "fim_suffix": ("<fim_suffix>", "<|fim_suffix|>", "▁<SUF>", "[SUFFIX]"),
    **{f"mode {mode}": (f"<{mode}>", f"[{mode}]") for mode in MODES},
}
"""Each control id and the pieces that serve as it, the name that headrace trains with first."""

_LOOKS_LIKE_CONTROL = re.compile(
    r"<\|.+\|>|\[/?[A-Z]+(_[A-Z]+)*(_?\d+)?\]|<unused_?\d+>|<reserved_?\d+>|<(start|end)_of_\w+>"
)


def sentinel_names(number: int) -> tuple[str, ...]:
    """The pieces that serve as sentinel `number`."""
    return f"<s{number}>", f"<extra_id_{number}>"


class Tokenizer:
    """Implements objectives.example.TokenizerView. May be used from several threads."""

    def __init__(self, model: bytes, name: str = "tokenizer") -> None:
        """model: the bytes of a SentencePiece model file; name: for messages. BadInput where it is none."""
        proto = parse_model(model, name)
        self.name = name
        self.vocabulary_size = len(proto.pieces)
        """Ids below this are the model's own."""
        layout = _layout(proto)
        self.control = _control_ids(layout)
        self._appended = {
            number: f"<{role}>" for role, number in layout.items() if number >= self.vocabulary_size
        }
        used = {int(number) for number in layout.values()}
        self.size: int = max(self.vocabulary_size, max(used) + 1)
        digest = hashlib.sha256(model)
        digest.update(json.dumps(layout, sort_keys=True).encode())
        self.hash: str = digest.hexdigest()
        self.encoding: str = f"{self.hash} sentencepiece {sentencepiece.__version__}"
        """Names what `encode_documents` gives; another version of the library may cut a text otherwise."""
        _make_control(proto, used)
        encoding = unescaped(proto)
        self._escapes = encoding.normalizer_spec.escape_whitespaces
        self._encoder, self._decoder = processor_of(encoding, name), processor_of(proto, name)
        self._inside_encoder, self._inside_decoder = self._encoder, self._decoder
        if has_edges(proto):
            inside = without_edges(proto)
            self._inside_encoder = processor_of(unescaped(inside), name)
            self._inside_decoder = processor_of(inside, name)
        self.lossless: bool = is_lossless(proto)
        """Every text comes back as it was, by the model's settings."""
        self._tables(proto)

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        """Read a SentencePiece model file. BadInput where it cannot be read, or is none."""
        return Tokenizer(read_model(path), str(path))

    def _tables(self, proto: ModelProto) -> None:
        texts = [piece.piece.replace(BLANK, " ") for piece in proto.pieces]
        kinds = np.array([piece.type for piece in proto.pieces], dtype=np.int64)
        ordinary = ~np.isin(kinds, (_CONTROL, _UNUSED, _UNKNOWN))
        is_byte = kinds == _BYTE
        self.ordinary: np.ndarray = np.flatnonzero(ordinary & ~is_byte).astype(np.int32)
        self._plain = np.zeros(self.size, dtype=bool)  # ids that SentencePiece can decode to text
        self._plain[: self.vocabulary_size] = ordinary | (kinds == _UNKNOWN)
        self.is_byte: np.ndarray = np.zeros(self.size, dtype=bool)
        self.is_byte[: self.vocabulary_size] = is_byte
        self.unknown: int = int(self._decoder.unk_id())

        self.word_start: np.ndarray = np.ones(self.size, dtype=bool)
        self.joined: np.ndarray = np.zeros(self.size, dtype=bool)
        self.unspaced: np.ndarray = np.zeros(self.size, dtype=bool)
        self.spread: np.ndarray = np.ones(self.size, dtype=np.int32)
        self._bytes = np.zeros(self.size, dtype=np.int32)
        single = {
            text for text, fits in zip(texts, ordinary & ~is_byte, strict=True) if fits and len(text) == 1
        }
        fallback = bool(is_byte.any())
        by_name = {proto.pieces[number].piece: number for number in np.flatnonzero(is_byte).tolist()}
        ids = [by_name[f"<0x{value:02X}>"] for value in BLANK.encode()] if fallback else []
        self._blank = np.array(ids, dtype=np.int32)  # the ids of U+2581, where the model has byte pieces
        surface = proto.trainer_spec.unk_surface  # what an unknown id is decoded to, " ⁇ " by default
        folds = bool(proto.normalizer_spec.precompiled_charsmap)
        folded = self._normalised({*surface}.union(*texts)) if folds else {}

        def most(text: str) -> int:
            """Tokens that these characters become at most: one each, or its bytes where no piece has it."""
            if folds:
                text = "".join(folded[character] for character in text)
            if not fallback:
                return len(text)
            return sum(1 if character in single else len(character.encode()) for character in text)

        for number in np.flatnonzero(ordinary | is_byte).tolist():
            text = texts[number]
            if is_byte[number]:
                value = int(text[3:5], 16)
                self.word_start[number] = scripts.byte_begins_word(value)
                self.joined[number] = scripts.is_joined_byte(value)
                self.unspaced[number] = scripts.is_unspaced_byte(value)
                self._bytes[number] = 1
                continue
            self.word_start[number] = scripts.begins_word(text)
            self.joined[number] = scripts.is_joined(text)
            self.unspaced[number] = scripts.is_unspaced(text)
            self._bytes[number] = len(text.encode())
            self.spread[number] = most(text)
        self.spread[self.unknown] = most(surface)

    def encode(self, text: str, *, inside: bool = False) -> np.ndarray:
        """int32 [n]: the ids of a text, without begin and end. inside: the text goes on from another."""
        return self.encode_documents([text], inside=inside)[0]

    def encode_documents(self, texts: list[str], *, inside: bool = False) -> list[np.ndarray]:
        """int32 [n] for each text, in one SentencePiece call that releases the GIL. Arrays are read-only.
        inside: the texts go on from others."""
        encoder = self._inside_encoder if inside else self._encoder
        if not len(self._blank):
            texts = [text.replace(BLANK, " ") for text in texts]
        encoded = encoder.encode(texts, return_type="numpy", num_threads=1)
        if self._escapes and len(self._blank):
            for number, text in enumerate(texts):
                if BLANK in text:
                    encoded[number] = self._around_blanks(text, encoder)
        return encoded

    def _around_blanks(self, text: str, encoder: SentencePieceProcessor) -> np.ndarray:
        parts: list[np.ndarray] = []
        for part in _runs_of_blanks(text):
            if part.startswith(BLANK):
                parts += [self._blank] * len(part)
            else:
                parts.append((self._inside_encoder if parts else encoder).encode(part, return_type="numpy"))
        return np.concatenate(parts, dtype=np.int32)

    def decode(self, tokens: np.ndarray | Iterable[int], *, inside: bool = False) -> str:
        """The text of ids. Control ids stand for none; bytes that are no character come out as U+FFFD.

        inside: the ids go on from others, so a blank at their front is kept.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        decoder = self._inside_decoder if inside else self._decoder
        return decoder.decode(ids[self._plain[ids]].tolist())

    def byte_lengths(self, text: str, tokens: np.ndarray, *, inside: bool = False) -> np.ndarray:
        """int64 [n]: UTF-8 bytes of a text that each of its ids stands for, together all of it, whatever of
        it they spell. tokens: int [n], what `encode` makes of the text."""
        if not self.lossless:
            return bytes_between(text, self._ends(text, inside))
        lengths = self._bytes[tokens].astype(np.int64)
        if len(lengths):
            lengths[0] += len(text.encode()) - lengths.sum()  # without the blank of a dummy prefix
        return lengths

    def _ends(self, text: str, inside: bool) -> np.ndarray:
        """int64 [n]: the character of the text behind which each of its ids ends."""
        escaped = self._escapes and bool(len(self._blank))
        if not len(self._blank):
            text = text.replace(BLANK, " ")
        encoder, start = (self._inside_encoder if inside else self._encoder), 0
        ends: list[int] = []
        for part in _runs_of_blanks(text) if escaped else [text]:
            if escaped and part.startswith(BLANK):
                ends += [start + end for blank in range(len(part)) for end in (blank, blank, blank + 1)]
            else:
                offsets = encoder.encode(part, return_type="offset_mapping")["offsets"]
                ends += [start + end for _, end in offsets]
            start += len(part)
            encoder = self._inside_encoder
        return np.array(ends, dtype=np.int64)

    def _normalised(self, characters: set[str]) -> dict[str, str]:
        """What a model's normalizer makes of each character, by itself."""
        listed = sorted(characters)
        made = self._inside_encoder.normalize(listed)
        return {one: text.replace(BLANK, " ") for one, text in zip(listed, made, strict=True)}

    def piece(self, number: int) -> str:
        """What an id looks like, for the eye: its piece, blanks as blanks, or its control name."""
        if number < self.vocabulary_size:
            return self._decoder.id_to_piece(number).replace(BLANK, " ")
        return self._appended[number]


def _layout(proto: ModelProto) -> dict[str, int]:
    """Role → id: the model's own pieces where they are control or user-defined, else new ids behind them."""
    own = {
        piece.piece: number
        for number, piece in reversed(list(enumerate(proto.pieces)))
        if piece.type in (_CONTROL, _USER)
    }
    spec = proto.trainer_spec
    stated = {"begin": spec.bos_piece, "end": spec.eos_piece, "pad": spec.pad_piece}
    names = {role: (stated.get(role, ""), *known) for role, known in ROLES.items()}
    names |= {f"sentinel {number}": sentinel_names(number) for number in range(SENTINELS)}
    layout: dict[str, int] = {}
    free = len(proto.pieces)
    for role, known in names.items():
        found = next((own[name] for name in known if name in own and own[name] not in layout.values()), None)
        if found is None:
            found, free = free, free + 1
        layout[role] = found
    return layout


def _control_ids(layout: dict[str, int]) -> ControlIds:
    plain = {role: layout[role] for role in ROLES if not role.startswith("mode ")}
    return ControlIds(
        **plain,
        modes={mode: layout[f"mode {mode}"] for mode in MODES},
        sentinels=tuple(layout[f"sentinel {number}"] for number in range(SENTINELS)),
    )


def _make_control(proto: ModelProto, used: set[int]) -> None:
    """Turn pieces that serve or look like control into control pieces."""
    for number, piece in enumerate(proto.pieces):
        if piece.type == _USER and (number in used or _LOOKS_LIKE_CONTROL.fullmatch(piece.piece)):
            piece.type = _CONTROL


def _runs_of_blanks(text: str) -> Iterator[str]:
    """The text in parts, those of U+2581 alone by themselves."""
    return filter(None, re.split(f"({BLANK}+)", text))
