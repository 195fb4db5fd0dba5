"""The table of layouts: what it refuses is refused in its words everywhere, and the README shows it."""

import re
from itertools import combinations, product

import pytest
from pydantic import ValidationError

from launcher.engine.layout import LayoutCell, LayoutConfig
from tests.support.commands import Commands
from tests.support.layouts import AXES, CELLS, REFUSED, SUPPORT, cover, keys, markdown
from tests.support.sources import ROOT


def test_every_cell_is_accepted_or_refused_with_its_reason() -> None:
    assert len(SUPPORT) == len(CELLS) + len(REFUSED) == 2 * 4 * 2 * 2 ** len(AXES)
    for cell in CELLS:
        assert LayoutConfig(**keys(cell)).cell == cell
    for cell in REFUSED:
        with pytest.raises(ValidationError) as caught:
            LayoutConfig(**keys(cell))
        assert f"{cell} is not supported: {SUPPORT[cell]}" in str(caught.value)


def test_a_reason_says_what_to_take_instead() -> None:
    for cell in REFUSED:
        for _ in cell:  # a key a line, until it is supported
            if (reason := SUPPORT[cell]) is None:
                break
            taken = re.search(r"use (\w+): (\w+)", reason)
            assert taken, reason
            key, value = taken.groups()
            cell = cell._replace(**{key: int(value) if value.isdigit() else value})
        assert SUPPORT[cell] is None


@pytest.mark.parametrize("cell", cover(REFUSED), ids=str)
def test_check_refuses_in_the_same_words(headrace: Commands, cell: LayoutCell) -> None:
    edits = [f"layout.{key}={value}" for key, value in keys(cell).items()]
    line = headrace.refused("check", ROOT / "configs" / "first.yaml", *edits)
    assert f"layout: {cell} is not supported: {SUPPORT[cell]}" in line


def test_the_readme_has_the_table() -> None:
    """`python -m tests.support.layouts` prints it."""
    assert f"\n{markdown()}\n" in (ROOT / "README.md").read_text()


def test_a_cover_has_every_pair_that_the_matrix_has() -> None:
    matrix = [row for row in product("abc", "xyz", "12", "12") if row[0] != "a" or row[1] != "z"]
    chosen = cover(matrix)
    assert set(chosen) <= set(matrix)
    assert len(chosen) <= 10
    for one, other in combinations(range(4), 2):
        assert {(row[one], row[other]) for row in chosen} == {(row[one], row[other]) for row in matrix}
