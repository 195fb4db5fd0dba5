"""What the README says: its five commands as they stand there, on a newcomer's text in a folder of its own;
its table of rooms beside the table that keeps them."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
import zstandard

from launcher.config.yaml_reader import dump_yaml
from tests.support.commands import Commands
from tests.support.helpers import Corpora
from tests.support.sources import ROOT
from tests.test_house import MAY_IMPORT, OPEN_TO_LAUNCHER

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


SECTION = section("Your own data, in five commands")


def fenced(opening: str) -> str:
    """The first block of the section that begins with ``` and this."""
    return SECTION.split(f"```{opening}\n")[1].split("```")[0]


def documents(corpora: Corpora, name: str) -> Iterator[str]:
    """The texts of a corpus."""
    corpus = corpora.open(name)
    for unit in range(len(corpus)):
        yield from (sample.text for sample in corpus.read_unit(unit) if sample.text)


@pytest.fixture
def home(corpora: Corpora, tmp_path: Path) -> Path:
    """books/, notes/*.md and news.jsonl.zst with 2 MB of text, and the configs as in a clone."""
    code, prose = ([*documents(corpora, name)] for name in ("code", "prose"))
    for folder, ending, texts in (("books", "txt", code), ("notes", "md", prose[::2])):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / folder / f"{number}.{ending}").write_text(text)
    news = "\n".join(json.dumps({"text": text}) for text in prose[1::2])
    (tmp_path / "news.jsonl.zst").write_bytes(zstandard.compress(news.encode()))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def test_the_five_commands_work_as_they_stand(headrace: Commands, home: Path) -> None:
    """Of `train`, which takes minutes, only that it would start."""
    lines = [shlex.split(line, comments=True) for line in fenced("").strip().splitlines()]
    pack, tokenizer, copy, check, train = lines
    assert [words[0] for words in lines] == ["headrace", "headrace", "cp", "headrace", "headrace"]
    files = [str(path) for word in pack[1:] for path in sorted(home.glob(word))]
    named = [word for word in pack[1:] if not [*home.glob(word)]]
    assert "in 1 shard " in headrace.ok(*named[:2], *files, *named[2:], cwd=home)
    assert "8,192 ids" in headrace.ok(*tokenizer[1:], cwd=home)
    shutil.copy(home / copy[1], home / copy[2])
    assert "no such shard" in headrace.refused(*check[1:], "tokenizer.model=tokenizer.model", cwd=home)

    copied, sections = yaml.safe_load((home / copy[2]).read_text()), yaml.safe_load(fenced("yaml"))
    assert {*sections} < {*copied}
    (home / copy[2]).write_text(dump_yaml(copied | sections))
    assert "\nmine " in headrace.ok(*check[1:], cwd=home)
    assert f"would start: 2 × {shlex.join(train[:3])}" in headrace.ok(*train[1:], "--dry-run", cwd=home)


def test_the_table_of_rooms_names_every_package_above_all_that_it_imports() -> None:
    rooms = re.findall(r"^\| (`.*?) \|", section("Rooms"), re.M)
    below = {
        re.sub(r"/$|\.py$", "", name).replace("/", "."): number
        for number, cell in enumerate(rooms)
        for name in re.findall(r"`(.+?)`", cell)
    }
    assert {*below} - {"configs", "slurm"} == {*MAY_IMPORT}
    for package, imported in MAY_IMPORT.items():
        opened = OPEN_TO_LAUNCHER if package.startswith("launcher.") and package != "launcher.output" else ()
        for room in (*imported, *opened):
            rows = [row for name, row in below.items() if name == room or name.startswith(f"{room}.")]
            assert rows, room
            assert min(rows) >= below[package], f"{package} imports {room}, which stands above it"
