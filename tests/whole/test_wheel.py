"""The wheel that users install: everything of ours is in it and nothing else, and it works by itself."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path

import pytest

from tests.support.sources import ROOT, source_files

RECIPES = ("configs/*.yaml", "slurm/*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, unpacked, as pip lays it into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("headrace-*.whl")
    zipfile.ZipFile(archive).extractall(folder / "site")
    return folder / "site"


def entry(wheel: Path) -> EntryPoint:
    """What the command `headrace` calls."""
    (info,) = wheel.glob("headrace-*.dist-info")
    (point,) = PathDistribution(info).entry_points
    return point


def headrace(wheel: Path, folder: Path, *arguments: str) -> str:
    """stdout of the installed command in an empty folder, with the other packages of this interpreter."""
    point = entry(wheel)
    script = f"from {point.module} import {point.attr}; {point.attr}()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_it_holds_the_rooms_and_the_recipes_and_nothing_else(wheel: Path) -> None:
    expected = {path.relative_to(ROOT) for path in source_files()}
    for pattern in RECIPES:
        found = {path.relative_to(ROOT) for path in ROOT.glob(pattern)}
        assert len(found) > 1, pattern
        expected |= found
    held = {path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()}
    assert {path for path in held if not path.parts[0].endswith(".dist-info")} == expected


def test_its_command_is_headrace(wheel: Path) -> None:
    point = entry(wheel)
    assert (point.group, point.name, point.value) == (
        "console_scripts",
        "headrace",
        "launcher.cli.main:main",
    )


def test_it_works_in_a_folder_that_knows_nothing_of_us(wheel: Path, tmp_path: Path) -> None:
    assert "Commands:" in headrace(wheel, tmp_path, "--help")
    (info,) = wheel.glob("headrace-*.dist-info")
    assert headrace(wheel, tmp_path, "--version") == f"headrace {PathDistribution(info).version}\n"
    findings = {
        finding["name"]: finding for finding in json.loads(headrace(wheel, tmp_path, "doctor", "--json"))
    }
    assert findings["packages"]["text"] == "launcher, data, model, objectives are headrace's own"
    for name in ("torch", "deepspeed", "processes"):
        assert findings[name]["severity"] == 0, findings[name]


def test_it_is_the_wheel_that_is_tried_here(wheel: Path) -> None:
    """And not the sources, which this interpreter may have installed as well."""
    script = "import launcher.cli.main as main; print(main.__file__)"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    found = subprocess.check_output([sys.executable, "-P", "-c", script], cwd="/", env=environment, text=True)
    assert found == f"{wheel}/launcher/cli/main.py\n"
