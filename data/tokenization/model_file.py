"""A SentencePiece model file, parsed; and what else a file is that was given for one, in words.

What people give for a model: nothing, a pointer of git-lfs, the web page of a failed download, the tokenizer
of another library, a model that was cut off on its way, or put together by hand so that SentencePiece refuses
it. Each gets one line that says so.
"""

import re
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from data.errors import BadInput
from data.tokenization.model_proto import ModelProto

_NAME_IT = "name the .model file that belongs to it, or train one: headrace tokenizer train"
_UNPACK = "unpack it and name the .model file in it"
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "but git-lfs's pointer to a file: fetch that with git lfs pull"),
    (rb"\[PAD\]\r?\n|\[unused", f"but a vocabulary of BERT's (WordPiece): {_NAME_IT}"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|!--|head)", "but a web page: download the file itself"),
    (
        rb"(?s)(\xef\xbb\xbf)?\s*\{.*\"(model|added_tokens)\"",
        f"but Hugging Face's tokenizer.json: {_NAME_IT}",
    ),
    (rb"(\xef\xbb\xbf)?\s*[\[{]", f"but JSON: {_NAME_IT}"),
    (rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", f"but ranks of tiktoken, which is no SentencePiece: {_NAME_IT}"),
    (rb"#version: ", f"but a list of BPE merges: {_NAME_IT}"),
    (rb"<unk>\t|<pad>\t|<s>\t", "but the list of a model's pieces (.vocab): name the .model beside it"),
    (rb"\x80[\x02-\x05]", f"but a Python pickle: {_NAME_IT}"),
    (rb"GGUF", f"but a model of llama.cpp (GGUF): {_NAME_IT}"),
    (rb"(?s).{8}\{\"", f"but weights (safetensors): {_NAME_IT}"),
    (rb"PK\x03\x04", f"but a zip archive, or what torch.save writes: {_UNPACK}"),
    (rb"\x1f\x8b", f"but packed by gzip: {_UNPACK}"),
    (rb"\x28\xb5\x2f\xfd", f"but packed by zstd: {_UNPACK}"),
    (rb"BZh[1-9]|\xfd7zXZ", f"but packed by bzip2 or xz: {_UNPACK}"),
    (rb"(?s).{257}ustar", f"but a tar: {_UNPACK}"),
)
"""How other files begin, and what is said of them."""
_FIRST_PIECE = re.compile(rb"\n[\x02-\x7f]\n")
_LARGEST = 256 << 20
"""Bytes that are read: models have a few MB; a shard or weights given for one show at their beginning."""
_BRING_IT_BACK = "copy it again from where it was whole"


def read_model(path: str | Path) -> bytes:
    """The bytes of a model file. BadInput where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST)
    except IsADirectoryError as error:
        models = sorted(found.name for found in Path(path).glob("*.model"))
        name = f", such as {Path(path) / models[0]}" if models else ""
        raise BadInput(f"{path}: is a folder; name the .model file of SentencePiece in it{name}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def parse_model(content: bytes, name: str) -> ModelProto:
    """The model of these bytes. name: for messages. BadInput says what they are instead."""
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
        for piece in proto.pieces:
            piece.piece.encode()
        whole = proto.HasField("trainer_spec") and proto.HasField("normalizer_spec")
    except Exception as error:  # google.protobuf's DecodeError, by whichever of its implementations
        raise BadInput(f"{name}: is {_what_it_is(content)}") from error
    if not proto.pieces:
        raise BadInput(f"{name}: is {_what_it_is(content)}")
    if not whole:  # they stand behind the pieces
        raise BadInput(f"{name}: is a SentencePiece model that was cut off behind a piece; {_BRING_IT_BACK}")
    return proto


def processor_of(proto: ModelProto, name: str) -> SentencePieceProcessor:
    """SentencePiece's own reading of a model. BadInput where it refuses it."""
    try:
        return SentencePieceProcessor(model_proto=proto.SerializeToString())
    except (RuntimeError, OSError) as error:
        raise BadInput(f"{name}: SentencePiece refuses this model: {_refusal(proto, error)}") from error


def _what_it_is(content: bytes) -> str:
    if not content:
        return f"not a SentencePiece model: it is empty; {_BRING_IT_BACK}"
    for pattern, words in _KINDS:
        if re.match(pattern, content):
            return f"not a SentencePiece model {words}"
    if _FIRST_PIECE.match(content):
        return f"not a SentencePiece model that is whole: it was cut off or damaged; {_BRING_IT_BACK}"
    return f"not a SentencePiece model; {_NAME_IT}"


def _refusal(proto: ModelProto, error: Exception) -> str:
    """What SentencePiece has against a model, with the ids where they are known."""
    ids: dict[str, int] = {}
    for number, piece in enumerate(proto.pieces):
        if (first := ids.setdefault(piece.piece, number)) != number:
            return (
                f"the piece {piece.piece!r} stands in it twice (ids {first} and {number}); give one of them "
                "another name, or train a model: headrace tokenizer train"
            )
    reason = " ".join(str(error).split()).removeprefix("INTERNAL: ").rstrip(".")
    return f"{reason[-200:]}; {_BRING_IT_BACK}, or train another: headrace tokenizer train"
