"""The benchmarks are run by hand; that each still fits the code that it measures is seen here."""

import importlib
from pathlib import Path

import pytest

BENCHES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("_", "test_"))
)


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    assert callable(importlib.import_module(f"tests.bench.{name}").main)
