"""What the tests of shards far away have in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shard_server import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of an empty folder of its own."""
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.close()
