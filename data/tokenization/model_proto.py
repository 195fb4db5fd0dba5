"""The file of a SentencePiece model as protobuf messages, read and written with any protobuf.

sentencepiece ships generated code for this, which is not to be imported beside a protobuf of another major
version than the one that it was generated with (7, as of sentencepiece 0.2.3), and other packages of a
machine often hold an older one. A schema is no more than numbers, types and names of fields, and those of a
published one never change, so it stands here, whole: a model that is written again has the bytes that
sentencepiece would write.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

_PACKAGE = "sentencepiece"
_TYPES = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


class _Field(NamedTuple):
    number: int
    type: str
    """One of `_TYPES`, or the name of an enum or message of the package."""
    name: str
    default: str = ""
    repeated: bool = False


_SCHEMA: dict[str, tuple[_Field, ...]] = {
    "ModelProto": (
        _Field(1, "ModelProto.SentencePiece", "pieces", repeated=True),
        _Field(2, "TrainerSpec", "trainer_spec"),
        _Field(3, "NormalizerSpec", "normalizer_spec"),
        _Field(5, "NormalizerSpec", "denormalizer_spec"),
    ),
    "ModelProto.SentencePiece": (
        _Field(1, "string", "piece"),
        _Field(2, "float", "score"),
        _Field(3, "ModelProto.SentencePiece.Type", "type", "NORMAL"),
    ),
    "TrainerSpec": (
        _Field(1, "string", "input", repeated=True),
        _Field(2, "string", "model_prefix"),
        _Field(3, "TrainerSpec.ModelType", "model_type", "UNIGRAM"),
        _Field(4, "int32", "vocab_size", "8000"),
        _Field(5, "string", "accept_language", repeated=True),
        _Field(6, "int32", "self_test_sample_size"),
        _Field(7, "string", "input_format"),
        _Field(10, "float", "character_coverage", "0.9995"),
        _Field(11, "uint64", "input_sentence_size"),
        _Field(12, "int32", "mining_sentence_size"),
        _Field(13, "int32", "training_sentence_size"),
        _Field(14, "int32", "seed_sentencepiece_size", "1000000"),
        _Field(15, "float", "shrinking_factor", "0.75"),
        _Field(16, "int32", "num_threads", "16"),
        _Field(17, "int32", "num_sub_iterations", "2"),
        _Field(18, "int32", "max_sentence_length", "4192"),
        _Field(19, "bool", "shuffle_input_sentence", "true"),
        _Field(20, "int32", "max_sentencepiece_length", "16"),
        _Field(21, "bool", "split_by_unicode_script", "true"),
        _Field(22, "bool", "split_by_whitespace", "true"),
        _Field(23, "bool", "split_by_number", "true"),
        _Field(24, "bool", "treat_whitespace_as_suffix"),
        _Field(25, "bool", "split_digits"),
        _Field(26, "bool", "allow_whitespace_only_pieces"),
        _Field(30, "string", "control_symbols", repeated=True),
        _Field(31, "string", "user_defined_symbols", repeated=True),
        _Field(32, "bool", "vocabulary_output_piece_score", "true"),
        _Field(33, "bool", "hard_vocab_limit", "true"),
        _Field(34, "bool", "use_all_vocab"),
        _Field(35, "bool", "byte_fallback"),
        _Field(36, "string", "required_chars"),
        _Field(40, "int32", "unk_id"),
        _Field(41, "int32", "bos_id", "1"),
        _Field(42, "int32", "eos_id", "2"),
        _Field(43, "int32", "pad_id", "-1"),
        _Field(44, "string", "unk_surface", " ⁇ "),
        _Field(45, "string", "unk_piece", "<unk>"),
        _Field(46, "string", "bos_piece", "<s>"),
        _Field(47, "string", "eos_piece", "</s>"),
        _Field(48, "string", "pad_piece", "<pad>"),
        _Field(49, "bool", "train_extremely_large_corpus"),
        _Field(50, "bool", "enable_differential_privacy"),
        _Field(51, "float", "differential_privacy_noise_level"),
        _Field(52, "uint64", "differential_privacy_clipping_threshold"),
        _Field(53, "string", "pretokenization_delimiter"),
        _Field(54, "string", "seed_sentencepieces_file"),
        _Field(55, "bool", "auto_character_coverage"),
    ),
    "NormalizerSpec": (
        _Field(1, "string", "name"),
        _Field(2, "bytes", "precompiled_charsmap"),
        _Field(3, "bool", "add_dummy_prefix", "true"),
        _Field(4, "bool", "remove_extra_whitespaces", "true"),
        _Field(5, "bool", "escape_whitespaces", "true"),
        _Field(6, "string", "normalization_rule_tsv"),
    ),
}
_ENUMS: dict[str, tuple[str, ...]] = {
    "ModelProto.SentencePiece.Type": ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE"),
    "TrainerSpec.ModelType": ("UNIGRAM", "BPE", "WORD", "CHAR"),
}
"""Their values, counted from 1."""


def _schema() -> FileDescriptorProto:
    """The tables above in protobuf's own words."""
    file = FileDescriptorProto(name="headrace/sentencepiece_model.proto", package=_PACKAGE, syntax="proto2")
    messages: dict[str, DescriptorProto] = {}
    for name, fields in _SCHEMA.items():
        above, _, own = name.rpartition(".")
        messages[name] = messages[above].nested_type.add() if above else file.message_type.add()
        messages[name].name = own
        for field in fields:
            _describe(messages[name].field.add(), field)
    for name, values in _ENUMS.items():
        above, _, own = name.rpartition(".")
        enum = messages[above].enum_type.add(name=own)
        for number, value in enumerate(values, 1):
            enum.value.add(name=value, number=number)
    return file


def _describe(described: FieldDescriptorProto, field: _Field) -> None:
    described.name, described.number = field.name, field.number
    repeated, optional = FieldDescriptorProto.LABEL_REPEATED, FieldDescriptorProto.LABEL_OPTIONAL
    described.label = repeated if field.repeated else optional
    if field.type in _TYPES:
        described.type = _TYPES[field.type]
    else:
        is_enum = field.type in _ENUMS
        described.type = FieldDescriptorProto.TYPE_ENUM if is_enum else FieldDescriptorProto.TYPE_MESSAGE
        described.type_name = f".{_PACKAGE}.{field.type}"
    if field.default:
        described.default_value = field.default


def _model_class() -> Any:
    """In a pool of its own, where sentencepiece's code does not meet it."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_schema())
    model = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))
    if not hasattr(model, "SentencePiece"):  # protobuf without its C code
        model.SentencePiece = message_factory.GetMessageClass(model.DESCRIPTOR.nested_types[0])
    return model


if not TYPE_CHECKING:
    ModelProto = _model_class()
    """A whole model: pieces with their ids, how it was trained, how it normalises text."""
