"""Code and pages refer only to what is in the repository: every reference is followed."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from launcher.cli.app import app
from objectives.registry import NAMES
from tests.support.references import FOLDERS, Reference, Repository, references
from tests.support.sources import ROOT

ALLOWED = {
    "config.yaml": "a run's own file",
    "mine.yaml": "the config that a newcomer makes",
    "c.yaml": "that of a test",
    "gpu-tables.md": "what tests/gpu/run.sh writes on a machine with a GPU",
    "gpu-rehearsal.md": "what it writes on one without",
    "model.max_sequence_length": "a key that is set elsewhere, and refused there by a message that names it",
    "launcher/cluster/": "where Slurm's variables may be read as well, once there is such a package",
}
"""What is not in the repository and may be spoken of, and why."""

FEWEST = {
    "path": 300,
    "symbol": 10,
    "name": 80,
    "link": 20,
    "module": 25,
    "dotted": 180,
    "make": 20,
    "command": 60,
}
"""References of each kind that are followed at least: a test that sees none of them proves nothing."""

OWN = Path(__file__).relative_to(ROOT).as_posix()
"""This file: what is wrong here is planted."""

_HERE = "|".join(map(re.escape, (*FOLDERS, "design")))
ELSEWHERE = re.compile(rf"\bDESIGN\b|(?<![\w/.-])(?:\.\./)*+(?!(?:{_HERE})/)[a-z]\w*/[\w/-]*\.md\b")
"""A page in a folder that the repository does not have. In capitals: one by which code was once explained."""


def commands(command: object, above: str = "") -> Iterator[str]:
    """'data show' for each command under one of typer's."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        yield from commands(one, f"{above} {name}")
    if not below:
        yield above.strip()


@pytest.fixture(scope="module")
def repository() -> Repository:
    keys = {*(ROOT / "tests" / "options.txt").read_text().split()}
    # Every objective has these two, so they are listed with none.
    keys |= {f"objectives.{name}.{key}" for name in NAMES for key in ("weight", "coefficient")}
    return Repository(ROOT, keys, set(commands(typer.main.get_command(app))))


def broken(repository: Repository, file: str, text: str) -> list[Reference]:
    """The references of a file that lead nowhere."""
    return [one for one in references(file, text) if not repository.has(one)]


def test_what_is_referred_to_is_there(repository: Repository) -> None:
    followed: Counter[str] = Counter()
    lost: list[Reference] = []
    for file, text in repository.texts():
        followed.update(one.kind for one in references(file, text))
        lost += broken(repository, file, text) if file != OWN else []
    print(f"{followed.total()} references followed:", dict(followed))
    needed = {one.text for one in lost}
    assert [str(one) for one in lost if one.text not in ALLOWED] == []
    assert needed >= ALLOWED.keys(), f"exceptions that nothing needs: {ALLOWED.keys() - needed}"
    assert {kind: followed[kind] for kind, least in FEWEST.items() if followed[kind] < least} == {}


def test_nothing_refers_to_pages_elsewhere(repository: Repository) -> None:
    found = [
        f"{file}:{number}: {line.strip()}"
        for file, text in repository.texts()
        for number, line in enumerate(text.split("\n"), 1)
        if ELSEWHERE.search(line) and file != OWN
    ]
    assert found == []


@pytest.mark.parametrize("line", ["see DESIGN §3", "(notes/data.md)", "../plans/rows.md"])
def test_a_page_elsewhere_is_found(line: str) -> None:
    assert ELSEWHERE.search(line)


PLANTED = [
    ("path", "docs/gpu.md", "as `data/stream/blocks.py` has it"),
    ("path", "docs/gpu.md", "see docs/design/stream.md#no-such-heading"),
    ("path", "objectives/fim.py", '"""As docs/design/row.md says."""'),
    ("path", "tests/conftest.py", 'open("configs/second.yaml")'),
    ("path", "configs/first.yaml", "seed: 1   # as in configs/second.yaml"),
    ("path", "Makefile", "\tpython tests/support/tables.py"),
    ("path", "README.md", "`objectives/NAMES/NAME.py`"),
    ("symbol", "docs/gpu.md", "tests/test_house.py::test_the_house_is_sold"),
    ("symbol", "docs/gpu.md", "`STREAMS` in `data/plan/plan.py`"),
    ("symbol", "docs/design.md", "| `Sample` | `objectives/example.py` |"),
    ("name", "launcher/training/loop.py", '"""\n    the loop      loops.py\n"""'),
    ("name", "docs/design.md", "```\n main.py ──▶ apps.py\n```"),
    ("name", "slurm/train.sbatch", "# like trains.sbatch"),
    ("link", "docs/design.md", "[rows](design/row.md)"),
    ("link", "docs/design.md", "[rows](design/rows.md#no-such-heading)"),
    ("link", "README.md", "[below](#no-such-heading)"),
    ("module", "tests/bench/step.py", '"""python -m tests.bench.steps"""'),
    ("module", "docs/gpu.md", "`python3 -m launcher.cli.mains`"),
    ("dotted", "data/plan/plan.py", "x = 1  # as data.plan.plans does"),
    ("dotted", "docs/design.md", "launcher.runs.progress.Advance"),
    ("dotted", "docs/design.md", "launcher.runs.progress.Progress.retreat"),
    ("dotted", "README.md", "`data.block_size` bytes"),
    ("dotted", "README.md", "`optimizer.clip: 1`"),
    ("dotted", "data/plan/plan.py", 'raise BadInput("data.on_bad.bugdet: too large")'),
    ("dotted", "data/plan/__init__.py", '"""Doors: `plan.Plans`."""'),
    ("dotted", "README.md", "objectives.spam.Spam"),
    ("dotted", "README.md", "`data.corpora.code.wieght`"),
    ("make", "README.md", "`make TORCH= VENV=PATH trian`"),
    ("make", "README.md", "```\nmake tset\n```"),
    ("command", "README.md", "`headrace data shwo`"),
    ("command", "README.md", "```\nheadrace metric RUN\n```"),
    ("command", "data/plan/plan.py", 'raise BadInput("make it again with headrace data idnex")'),
]


@pytest.mark.parametrize(("kind", "file", "text"), PLANTED)
def test_a_planted_reference_that_leads_nowhere_is_found(
    repository: Repository, kind: str, file: str, text: str
) -> None:
    found = broken(repository, file, text)
    assert kind in {one.kind for one in found}


def test_what_a_page_has_its_reader_make_need_not_be_there(repository: Repository) -> None:
    page = "```python\n# objectives/spam.py\n```\n`objectives/spam.py`, objectives.spam.Spam, {}"
    assert broken(repository, "docs/gpu.md", page.format("objectives/span.py")) == []
    (lost,) = broken(repository, "docs/gpu.md", page.format("objectives/eggs.py"))
    assert lost.text == "objectives/eggs.py"


def test_each_kind_has_a_planted_one() -> None:
    assert {kind for kind, _, _ in PLANTED} == set(FEWEST)
