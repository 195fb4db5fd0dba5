"""The doctor tells what is wrong and whether it matters; here what is wrong is really so."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from launcher.doctor.dependencies import import_trouble
from launcher.doctor.doctor import no_gpu
from tests.support.sources import ROOT

Findings = dict[str, dict[str, str | int]]


def doctor(*arguments: str, code: int = 0, options: tuple[str, ...] = (), **environment: str) -> str:
    """Its stdout. options: of the interpreter."""
    done = subprocess.run(
        [sys.executable, *options, "-m", "launcher.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def by_name(text: str) -> Findings:
    """What `--json` prints, by the name of what was looked at."""
    return {finding["name"]: finding for finding in json.loads(text)}


def with_fakes(folder: Path, code: str, *names: str) -> Findings:
    """The findings where packages of these names lie before the real ones, each with this code in it."""
    for name in names:
        package = folder / "fakes" / name.replace(".", "/")
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
    path = os.pathsep.join([str(folder / "fakes"), str(ROOT)])
    return by_name(doctor("--json", "--folder", str(folder), code=2, PYTHONPATH=path))


def site_without(folder: Path, *names: str) -> Path:
    """A folder that holds what is installed here but for these distributions."""
    site = folder / "site"
    site.mkdir()
    gone = {line.parts[0] for name in names for line in metadata.files(name) or [] if ".." not in line.parts}
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in gone:
            (site / path.name).symlink_to(path)
    return site


def test_a_machine_that_works(tmp_path: Path) -> None:
    findings = by_name(doctor("--json", "--folder", str(tmp_path / "runs")))
    for name in (
        "python",
        "torch",
        "deepspeed",
        "sentencepiece",
        "cpu",
        "processes",
        "disk space",
        "disk locks",
    ):
        assert findings[name]["severity"] == 0, findings[name]
    assert "all-reduce at" in findings["processes"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_work_is_told_with_a_remedy() -> None:
    """No such network interface; a folder that takes no files."""
    text = doctor("--folder", "/proc/1/runs", code=2, GLOO_SOCKET_IFNAME="nothere0")
    lines = text.splitlines()
    for name, remedy in (("processes", "GLOO_SOCKET_IFNAME=lo"), ("disk", "choose another run.folder")):
        at = next(number for number, line in enumerate(lines) if line.split()[1] == name)
        assert lines[at].startswith("FAILED")
        assert remedy in lines[at + 1]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise ImportError('built for another Python')", "ImportError: built for another Python ("),
        ("import ctypes\nctypes.CDLL('libnot.so.1')", "OSError: libnot.so.1: cannot open shared object file"),
        ("import sys\nsys.none", "AttributeError: module 'sys' has no attribute 'none' ("),
        ("import os\nos.kill(os.getpid(), 4)", "SIGILL ended the process"),
    ],
)
def test_a_broken_torch_is_a_line_of_the_table(tmp_path: Path, code: str, told: str) -> None:
    findings = with_fakes(tmp_path, code, "torch")
    assert findings["torch"]["severity"] == 2
    assert told in str(findings["torch"]["text"])
    assert str(findings["torch"]["text"]).endswith((f"({tmp_path}/fakes/torch/__init__.py)", "the process"))
    assert "--force-reinstall --no-deps 'torch>=" in str(findings["torch"]["remedy"])
    for name in ("gpu", "compiler", "processes"):
        assert (findings[name]["severity"], findings[name]["text"]) == (2, "not looked at without torch")
    for name in ("sentencepiece", "cpu", "disk locks"):
        assert findings[name]["severity"] == 0, findings[name]


def test_a_torch_that_only_its_users_find_broken(tmp_path: Path) -> None:
    findings = with_fakes(tmp_path, "", "torch")
    expected = "cannot be looked at: AttributeError: module 'torch' has no attribute 'cuda'"
    assert (findings["gpu"]["severity"], findings["gpu"]["text"]) == (2, expected)
    assert findings["processes"]["severity"] == 2
    assert findings["disk locks"]["severity"] == 0


@pytest.mark.parametrize(
    ("cuda", "card", "severity", "remedy"),
    [
        (None, False, 0, ""),
        ("13.0", False, 0, ""),  # what plain pip brings to a laptop
        (None, True, 1, "install a build of torch for CUDA"),
        ("13.0", True, 1, "nvidia-smi tells whether the driver is new enough"),
    ],
)
def test_no_gpu_is_a_warning_only_where_the_machine_has_one(
    cuda: str | None, card: bool, severity: int, remedy: str
) -> None:
    finding = no_gpu(cuda, card)
    assert finding.severity == severity
    assert (finding.remedy or "").startswith(remedy)
    assert bool(finding.remedy) == bool(remedy)
    assert ("built for CUDA 13.0" in finding.text) == (cuda is not None)
    assert "training runs on the CPU" in finding.text


def test_a_torch_that_left_a_folder_behind(tmp_path: Path) -> None:
    """What pip leaves where a file had been added: a folder without __init__.py, which Python imports."""
    site = site_without(tmp_path, "torch")
    (site / "torch" / "lib").mkdir(parents=True)
    info = next(Path(sysconfig.get_path("purelib")).glob("torch-*.dist-info"))
    (site / info.name).symlink_to(info)
    path = os.pathsep.join([str(ROOT), str(site)])
    text = doctor("--folder", str(tmp_path), code=2, options=("-S",), PYTHONPATH=path)
    line = next(line for line in text.splitlines() if line.split()[1] == "torch")
    assert line.startswith("FAILED")
    assert line.endswith(f"cannot be imported: a folder without code lies there ({site}/torch)")


def test_what_is_missing_is_told_even_where_the_command_line_stands_on_it(tmp_path: Path) -> None:
    """From the sources, which are not installed either: pyproject.toml has the names."""
    site = site_without(tmp_path, "torch", "typer", "rich", "pydantic", "headrace")
    path = os.pathsep.join([str(ROOT), str(site)])
    findings = by_name(doctor("--json", "--folder", str(tmp_path), code=2, options=("-S",), PYTHONPATH=path))
    for name in ("torch", "typer", "rich", "pydantic"):
        assert (findings[name]["severity"], findings[name]["text"]) == (2, "is missing")
        assert str(findings[name]["remedy"]).startswith(f"pip install '{name}>=")
    assert findings["commands"]["text"] == (
        "none but this one works: ModuleNotFoundError: No module named 'typer'"
    )
    assert findings["gpu"]["text"] == "not looked at without torch, pydantic"
    assert findings["headrace"]["severity"] == 1
    assert findings["numpy"]["severity"] == findings["disk locks"]["severity"] == 0


OWN = ("numpy", "pydantic", "rich", "typer")
"""What the command line itself or a part of the doctor imports."""
OTHERS = {
    name: {"protobuf": "google.protobuf", "pyyaml": "yaml"}.get(name, name)
    for name in (
        *("braceexpand", "deepspeed", "fsspec", "protobuf", "pyyaml", "safetensors", "sentencepiece"),
        *("urllib3", "wandb", "webdataset", "xxhash", "zstandard"),
    )
}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("raise ImportError('built for\\nanother Python')", "ImportError: built for another Python"),
    ],
)
def test_a_command_line_that_ends_as_it_is_imported(tmp_path: Path, code: str, told: str) -> None:
    findings = with_fakes(tmp_path, code, "typer")
    expected = f"none but this one works: {told}"
    assert (findings["commands"]["severity"], findings["commands"]["text"]) == (2, expected)
    assert findings["disk locks"]["severity"] == 0


def test_libraries_that_the_doctor_does_not_stand_on_are_broken(tmp_path: Path) -> None:
    findings = with_fakes(tmp_path, "raise OSError('torn')", *OTHERS.values(), "pyarrow")
    for name in OTHERS:
        assert findings[name]["severity"] == 2
        assert "cannot be imported: OSError: torn (" in str(findings[name]["text"]), name
    assert findings["pyarrow"]["severity"] == 1, "needed for some inputs alone"
    for name in ("torch", *OWN, "gpu", "compiler", "processes"):
        assert findings[name]["severity"] == 0, findings[name]


def test_libraries_that_it_stands_on_are_broken(tmp_path: Path) -> None:
    findings = with_fakes(tmp_path, "raise ValueError('torn')", *OWN)
    for name in OWN:
        assert "cannot be imported: ValueError: torn (" in str(findings[name]["text"]), name
    assert findings["commands"]["text"] == "none but this one works: ValueError: torn"
    assert str(findings["processes"]["text"]).startswith("not looked at without numpy, pydantic")
    assert findings["sentencepiece"]["severity"] == 0


def test_packages_that_cannot_be_imported_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_two.py").write_text("")
    (tmp_path / "second_two.py").write_text("import sys\nassert 'first_two' not in sys.modules, 'clash'")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_trouble(["second_two", "first_two"]) == {}
    found = import_trouble(["first_two", "second_two"])
    assert found == {"": f"AssertionError: clash ({tmp_path}/second_two.py)"}
