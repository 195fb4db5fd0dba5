"""docs/adding-an-objective.md as it stands: its objectives, in a copy of the repository, trained end to end.

The copy differs from the repository by the files that the page shows and one line of the registry for each
objective. `leap` looks at one segment at a time, as causal does; `graft` exchanges halves of segments between
documents and reports some targets under another objective's id, as nsp does.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.registry import OBJECTIVES
from tests.support.sources import ROOMS, ROOT

PAGE = ROOT / "docs" / "adding-an-objective.md"
REGISTRY = "objectives/registry.py"
END = ")\n"
"""Of the list in the registry."""


def blocks() -> list[tuple[str, str]]:
    """(path, code) of each block of the page that names its file in its first line."""
    found = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [(path, code) for path, code in found]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy, with the objectives of the page."""
    copy = tmp_path_factory.mktemp("grown")
    for folder in (*ROOMS, "tests", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, copy)
    number = len(OBJECTIVES)
    for path, code in blocks():
        if path == REGISTRY:
            (line,) = code.splitlines(keepends=True)
            registry = (copy / path).read_text()
            head, end, tail = registry.partition(END)
            assert head.endswith('",\n'), "the list is the first thing in the registry that ends with )"
            (copy / path).write_text(head + line + end + tail)
        else:
            assert not (copy / path).exists()
            # The ids of the page are the next free ones of the day on which it was written.
            new = re.sub(r"(    id: ClassVar\[int\] = )\d+", rf"\g<1>{number}", code)
            number += new != code or "ClassVar[int]" in code
            (copy / path).write_text(new)
    assert number == len(OBJECTIVES) + 2
    return copy


def passed(copy: Path, *arguments: str) -> str:
    """What pytest says in the copy, all of it passed."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_objective_is_one_file_one_line_and_one_test(grown: Path) -> None:
    kinds = [path.split("/")[0] if path != REGISTRY else "line" for path, _ in blocks()]
    assert kinds == ["objectives", "line", "tests"] * 2
    before = (ROOT / REGISTRY).read_text().splitlines()
    after = (grown / REGISTRY).read_text().splitlines()
    assert [line for line in after if line not in before] == ['    "leap:Leap",', '    "graft:Graft",']
    assert [line for line in after if line in before] == before
    passed(grown, "tests/test_house.py", "-k", "keep_their_size")


def test_the_objectives_of_the_page_get_from_a_config_to_a_loss(grown: Path) -> None:
    """And pass the tests that stand on the page."""
    own = [path for path, _ in blocks() if path.startswith("tests/")]
    said = passed(grown, "tests/objectives/test_every_objective.py", *own)
    for name in ("leap", "graft"):
        assert f"test_all_text_is_used_once_and_counts_as_planned[{name}] PASSED" in said
        assert f"tests/objectives/test_{name}.py" in said
    assert "test_every_objective_has_a_loss PASSED" in said


@pytest.mark.full
def test_nothing_counts_the_objectives(grown: Path) -> None:
    """The tests of all objectives, of packing and of configs pass with two more in the registry."""
    options = grown / "tests" / "options.txt"
    options.write_text("\n".join(sorted([*options.read_text().split(), "objectives.leap.rate"])) + "\n")
    others = f"--ignore={Path(__file__).relative_to(ROOT)}"
    passed(grown, others, "tests/objectives", "tests/data/test_packing.py", "tests/launcher/test_config.py")
