"""The schema of a model file is sentencepiece's own, under every implementation of protobuf."""

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.helpers import Corpora
from tests.support.sources import ROOT

READ = """
import sys
from google.protobuf.internal import api_implementation
from data.tokenization.model_proto import ModelProto
model = ModelProto.FromString(open(sys.argv[1], "rb").read())
assert model.SerializeToString() == open(sys.argv[1], "rb").read()
kinds = [piece.type for piece in model.pieces]
print(api_implementation.Type(), len(kinds), kinds.count(ModelProto.SentencePiece.BYTE))
"""


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_a_model_that_is_written_again_is_the_same_bytes(corpora: Corpora, implementation: str) -> None:
    """Without importing sentencepiece's generated code, which other versions of protobuf refuse."""
    foreign = ROOT / "tests" / "fixtures" / "mistral-v3.model"
    for file, pieces in ((foreign, 32768), (corpora.tokenizer_path, 2000)):
        done = subprocess.run(
            [sys.executable, "-c", READ, str(file)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        )
        assert done.stdout.split() == [implementation, str(pieces), "256"], done.stderr


def test_the_schema_is_that_of_sentencepiece() -> None:
    from data.tokenization.model_proto import ModelProto

    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto as Generated
    except Exception as error:  # VersionError, which protobuf has had since 5.27, or ImportError before it
        pytest.skip(f"sentencepiece's own code is for another protobuf: {error}")
    ours, theirs = ModelProto.DESCRIPTOR, Generated.DESCRIPTOR
    assert fields(ours) == fields(theirs)
    for name in ("trainer_spec", "normalizer_spec", "denormalizer_spec", "pieces"):
        of = [d.fields_by_name[name].message_type for d in (ours, theirs)]
        assert fields(of[0]) == fields(of[1])
        enums = [{v.name: v.number for kind in one.enum_types for v in kind.values} for one in of]
        assert enums[0] == enums[1]


def fields(message: Any) -> dict[int, tuple[Any, ...]]:
    """{number: (name, type, default)} of a message's fields."""
    return {
        one.number: (one.name, one.type, None if one.message_type else one.default_value)
        for one in message.fields
    }
