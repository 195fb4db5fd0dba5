"""The session's small corpora and tokenizer, made once and kept in a temporary folder between sessions."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tiny tensors: a second thread only waits, and two test processes would fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support.commands import Commands
from tests.support.corpora import small_corpora
from tests.support.helpers import Corpora, TrainingText


@pytest.fixture(scope="session")
def corpora() -> Corpora:
    """Packed `code` and `prose` and a tokenizer; read-only for tests."""
    return small_corpora()


@pytest.fixture(scope="session")
def text(corpora: Corpora, tmp_path_factory: pytest.TempPathFactory) -> TrainingText:
    """Text of `corpora` in small units, for whole runs; read-only for tests."""
    from tests.support.training import small_text  # put off: imports torch, which most tests do without

    return small_text(corpora, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def straight(text: TrainingText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run of tests/support/training.py's config, 40 steps on 2 ranks that nothing
    disturbed."""
    from tests.support.training import config, train  # put off: see above

    folder = tmp_path_factory.mktemp("straight")
    train(2, config(text, folder))
    return folder


@pytest.fixture(scope="module")
def headrace() -> Iterator[Commands]:
    """The command line, as a user types it."""
    commands = Commands()
    yield commands
    commands.close()
