"""The command line as a user meets it: subprocesses, exit codes, one line for bad input."""

import ast
import json
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from data.durable import append
from launcher.cli import typer_errors
from launcher.cli.app import app
from tests.launcher.test_check import CONFIG as CHECKED
from tests.launcher.test_run_folder import CONFIG, begun, write_steps
from tests.support.helpers import Corpora
from tests.support.sources import source_files

COMMANDS = [
    "train",
    "resume",
    "check",
    "prove",
    "status",
    "metrics",
    "evaluate",
    "generate",
    "wandb",
    "doctor",
    "checkpoint ls",
    "checkpoint verify",
    "checkpoint average",
    "data pack",
    "data index",
    "data verify",
    "data show",
    "data trace",
    "data seen",
    "tokenizer train",
    "tokenizer check",
]
SHOWING = [
    "check",
    "prove",
    "status",
    "metrics",
    "evaluate",
    "generate",
    "doctor",
    "checkpoint ls",
    "checkpoint verify",
    "checkpoint average",
    "data verify",
    "data show",
    "data trace",
    "data seen",
    "tokenizer check",
]


def headrace(*arguments: str | Path, code: int = 0, **options: object) -> str:
    """What a command prints on stdout; its stderr where a failure is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_help_names_every_command_and_only_those() -> None:
    listed = set()
    for group in ("", "data", "tokenizer", "checkpoint"):
        text = headrace(*group.split(), "--help")
        names = re.findall(r"^  ([a-z]+)  +\S", text.split("Commands:")[1], re.MULTILINE)
        listed |= {f"{group} {name}".strip() for name in names}
    assert listed - {"data", "tokenizer", "checkpoint"} == set(COMMANDS)


def test_every_command_has_help_with_an_example_and_imports_no_torch() -> None:
    """All in one interpreter, which then knows whether torch was imported."""
    script = f"""
import io, sys
from contextlib import redirect_stdout
from launcher.cli.app import app
for command in {COMMANDS!r}:
    out = io.StringIO()
    with redirect_stdout(out):
        app([*command.split(), "--help"], standalone_mode=False)
    assert "Example" in out.getvalue() and f"headrace {{command}} " in out.getvalue(), command
    assert ("--json" in out.getvalue()) == (command in {SHOWING!r}), command
heavy = {{"torch", "numpy", "deepspeed", "wandb", "sentencepiece", "webdataset", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_function_of_the_launcher_says_what_it_is_for() -> None:
    """Methods too; the setter of a property says it with its getter."""
    silent = []
    seen = 0
    for path in source_files("launcher"):
        nodes = list(ast.parse(path.read_text()).body)
        seen += 1
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                nodes += node.body
            elif not isinstance(node, ast.FunctionDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                setter = any(isinstance(by, ast.Attribute) for by in node.decorator_list)
                silent += [] if setter else [f"{path}:{node.lineno}: {node.name}"]
    assert silent == []
    assert seen > 60, seen


def test_version() -> None:
    assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", headrace("--version"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "none.yaml"], "headrace: none.yaml: cannot be read: No such file or directory"),
        (["check", "none.yaml"], "none.yaml"),
        (["status", "/tmp"], "headrace: /tmp: expected the folder of a run"),
        (["resume", "/tmp", "steps=3"], "/tmp: expected the folder of a run"),
        (["metrics", "none"], "none: no such folder; expected that of a run, such as runs/first"),
        (["data", "pack", "--out", "x"], "data pack: expected files or folders"),
        (["data", "verify", "none.index"], "none.index: No such file or directory"),
        (["data", "index", "none-*.tar", "--out", "x.index"], "none-*.tar"),
        (["tokenizer", "train", "none.index", "--out", "x"], "none.index"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    line = headrace(*arguments, code=2, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert expected in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train --nope", "train: no such option --nope; there are --processes, --dry-run, --help; values of"),
        ("train c.yaml --steps 5", "values of the config are given as key=value, such as steps=500. See"),
        ("train c.yaml --process 2", "train: no such option --process; did you mean --processes? See"),
        ("data verify a.index --jsn", "data verify: no such option --jsn; did you mean --json? See"),
        ("--versoin", "headrace: no such option --versoin; did you mean --version? See 'headrace --help'"),
        ("train", "train: CONFIG is missing: A YAML file, such as configs/first.yaml. See 'headrace train"),
        ("data show c.yaml", "data show: --step is missing: The first step of a run is 1. See"),
        ("check c.yaml --processes two", "check: --processes: expected a whole number, got 'two'. See"),
        (
            "metrics r --last 0",
            "metrics: --last: expected at least 1, got '0'. See 'headrace metrics --help'",
        ),
        ("generate r p --order up", "--order: 'up' is not one of 'forwards', 'infill', 'backwards'. See"),
        ("train c.yaml -p", "train: option '-p' requires an argument: Start so many processes on this"),
        ("train c.yaml --dry-run=3", "train: option '--dry-run' does not take a value. See 'headrace train"),
        ("status a b", "got unexpected extra argument(s) (b); expected headrace status [OPTIONS] {RUN}. See"),
        ("trian", "headrace: no such command 'trian'. Did you mean 'train'? See 'headrace --help'"),
        ("data foo", "data: no such command 'foo'; there are pack, index, verify, show, trace, seen. See"),
    ],
)
def test_a_command_line_that_cannot_be_understood(words: str, expected: str) -> None:
    line = headrace(*words.split(), code=2)
    assert line.startswith("headrace: ")
    assert line.count("\n") == 1
    assert expected in line
    assert line.endswith("--help'\n")


@pytest.mark.parametrize(
    ("words", "kind", "read"),
    [
        ("train --nope", "NoSuchOption", "option_name"),
        ("train", "MissingParameter", "param.param_type_name param.metavar param.name param.opts"),
        ("check c.yaml --processes two", "BadParameter", "param.param_type_name param.opts message"),
        ("train c.yaml -p", "BadOptionUsage", "option_name"),
        ("status a b", "UsageError", "ctx.get_usage"),
        ("data", "NoArgsIsHelpError", "ctx"),
    ],
)
def test_the_private_parts_of_typer_are_where_we_look_for_them(words: str, kind: str, read: str) -> None:
    """typer promises none of it. Where this fails, launcher/cli/typer_errors.py and usage.py must follow."""
    root = typer.main.get_command(app)
    with pytest.raises(typer_errors.UsageError) as caught:
        root.main(words.split(), prog_name="headrace", standalone_mode=False)
    error = caught.value
    assert type(error) is getattr(typer_errors, kind), f"typer {typer.__version__} refuses with another error"
    for path in ("format_message", *read.split()):
        assert operator.attrgetter(path)(error), f"typer {typer.__version__}: {kind}.{path} is empty"
    for option in root.commands[words.split()[0]].params:
        assert option.opts, f"typer {typer.__version__}: a parameter without .opts"


def test_a_group_without_a_command_shows_its_help() -> None:
    assert "verify   Read every byte" in headrace("checkpoint", code=2)


def test_a_foreign_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    """`data` is a common name; with another one in front nothing of ours could be imported."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("")
    script = "from launcher.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "--version"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        f"the package 'data' would be imported from {tmp_path}/data instead of {os.getcwd()}/data"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_text_becomes_shards_an_index_and_a_tokenizer(tmp_path: Path, corpora: Corpora) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        words = " ".join(f"word{(number * 7 + i) % 50} of line {i}" for i in range(60))
        (texts / f"{number}.txt").write_text(words)
    out = headrace("data", "pack", texts, "--out", tmp_path / "mine")
    assert "40 documents" in out
    assert "exist" in headrace("data", "pack", texts, "--out", tmp_path / "mine", code=2)

    assert "40 documents" in headrace("data", "verify", tmp_path / "mine.index")
    (tmp_path / "mine.index").unlink()
    out = headrace("data", "index", tmp_path / "mine-*.tar", "--out", tmp_path / "mine.index")
    assert "40 documents" in out

    model = tmp_path / "tok.model"
    prose = corpora.folder / "prose.index"
    arguments = ["tokenizer", "train", prose, "--out", model, "--vocabulary", "700", "--sample-mib", "1"]
    assert "700 ids" in headrace(*arguments)
    checked = json.loads(headrace("tokenizer", "check", model, tmp_path / "mine.index", "--json"))
    assert checked[0]["documents"] == 40
    assert checked[0]["not_lossless"] == 0

    shard = next(tmp_path.glob("mine-*.tar"))
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    headrace("data", "verify", tmp_path / "mine.index", code=2)


def test_metrics_and_status_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "tok.model").write_bytes(b"pieces")
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    folder, _ = begun(file, 0, None)
    line = {
        "step": 1,
        "attempt": 1,
        "time": 1.0,
        "tokens": 100,
        "loss": 5.5,
        "lr": 0.1,
        "grad_norm": None,
        "tokens_per_second": 10.0,
        "data_wait": 0.0,
        "step_seconds": 2.0,
        "objectives": {"causal": {"loss": 5.5}},
    }
    append(folder.attempt_path(1) / "metrics.jsonl", json.dumps(line))
    append(folder.attempt_path(1) / "metrics.jsonl", json.dumps({"step": 1, "attempt": 1, "eval": {}}))
    printed = [json.loads(text) for text in headrace("metrics", folder.path, "--json").splitlines()]
    assert [one["step"] for one in printed] == [1, 1]
    assert "causal" in headrace("metrics", folder.path, "--last", "1").splitlines()[0]
    state = json.loads(headrace("status", folder.path, "--json"))
    assert (state["state"], state["step"], state["steps"], state["seconds_left"]) == ("died", 1, 20, 38.0)
    assert f"go on with: headrace resume {folder.path}" in headrace("status", folder.path)


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "tok.model").write_bytes(b"pieces")
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    folder, _ = begun(file, 0, None)
    write_steps(folder, 1, 1, 20_000)
    command = f"{sys.executable} -m launcher.cli metrics {folder.path} --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert json.loads(done.stdout)["step"] == 1
    assert "Traceback" not in done.stderr


def test_dry_run_says_what_it_would_start_and_writes_nothing(tmp_path: Path, corpora: Corpora) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        CHECKED.format(folder=tmp_path, model=corpora.tokenizer_path, code=corpora.code, prose=corpora.prose)
    )
    text = headrace("train", file, "steps=5", "--processes", "2", "--dry-run")
    assert f"would start: 2 × headrace train {file} steps=5" in text
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
