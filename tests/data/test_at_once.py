"""What is done for many short documents at once gives the rows that come from doing it one by one.

One by one: every member found by its own header, every document cut by `fit`, every slice of a row looked at
for what is unusual in it.
"""

import numpy as np
import pytest

from data.shards import samples
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from objectives.causal import Causal
from objectives.example import Examples
from objectives.objective import Objective
from objectives.segments import between
from tests.support.helpers import Corpora, make_corpus
from tests.support.stream_runs import edit, run, settings, small_units, start, texts

MIXTURES = {
    "causal": {"causal": {}},
    "another alone": {"mlm": {}},
    "one that exchanges alone": {"nsp": {}},
    "two": {"causal": {"weight": 3}, "span": {}},
    "one after the other": {
        "causal": {"weight": [[0, 1], [100, 0]]},
        "reverse": {"weight": [[0, 0], [100, 1]]},
    },
}


def one_by_one(patch: pytest.MonkeyPatch) -> list[str]:
    """Has all of it done so; the list takes a word for each time."""
    seen: list[str] = []

    def nothing(name: str, result: object) -> object:
        return lambda *_: (seen.append(name), result)[1]

    patch.setattr(samples, "_plain_texts", nothing("tar", None))
    patch.setattr(Causal, "takes_whole", Objective.takes_whole)
    patch.setattr(Examples, "unusual", True)
    return seen


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """Documents of a few words and of several rows, one in parts, and single ones that are held out."""
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        return {
            "a": small_units(patch, folder, "a", texts(3_000, 1, longest=30)),
            "b": small_units(patch, folder, "b", texts(300, 2, longest=400)),
            "c": make_corpus(folder, "c", [*texts(200, 5), "\n".join(texts(20_000, 3)), *texts(700, 6)]),
        }


@pytest.mark.parametrize("objectives", MIXTURES.values(), ids=MIXTURES)
def test_rows_are_those_of_one_by_one(
    mixed: dict[str, Corpus],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    objectives: dict,
) -> None:
    asked = settings(tokenizer, mixed, {"a": 0.6, "b": 0.3, "c": 0.1}, objectives=objectives)
    wider = settings(tokenizer, mixed, {"a": 0.6, "b": 0.3, "c": 0.1}, objectives=objectives, length=100)
    found = []
    for how in ("at once", "one by one"):
        seen = one_by_one(monkeypatch) if how == "one by one" else []
        history = start(asked)
        first = run(history, mixed, tokenizer, 20)
        history = edit(history, wider, first.row, first.state)  # open blocks are cut anew, from the middle on
        then = run(history, mixed, tokenizer, 20, world=2, first_row=first.row, state=first.state)
        found.append((first.rows | then.rows, first.state, then.state))
    assert seen
    assert found[0] == found[1]


def test_documents_side_by_side_are_as_numpy_joins_them(tokenizer: Tokenizer) -> None:
    control = tokenizer.control
    for documents in ([], [[]], [[5]], [[], [7, 8], [], [9] * 70_000]):
        arrays = [np.array(document, dtype=np.int64) for document in documents]
        parts = [[control.begin], *([*document, control.end, control.begin] for document in arrays)]
        assert between(arrays, control).tolist() == np.concatenate(parts).tolist()
        assert between(arrays, control).dtype == np.int32
        assert not between(arrays, control).flags.writeable
