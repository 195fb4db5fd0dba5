"""What to type next: told by `status` in every state of a run and at the end of training, in words that the
shell of the user knows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.durable import append
from launcher.config import run_config
from launcher.reporting import next_command
from launcher.reporting.summary import show_summary
from launcher.runs.run_folder import claim, open_run, start
from tests.launcher.test_run_folder import CONFIG
from tests.support.commands import Commands


@pytest.fixture
def config(tmp_path: Path) -> run_config.Config:
    (tmp_path / "tok.model").write_bytes(b"pieces")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("FOLDER", str(tmp_path)).replace("{causal: {}}", "{causal: {}, nsp: {}}"))
    return run_config.load(path)


def test_status_says_what_to_type_next_in_every_state(
    headrace: Commands, config: run_config.Config, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "r"
    folder, _ = start(config)

    def told() -> list[str]:
        lines = headrace.ok("status", run).splitlines()
        return [lines[0].removeprefix(f"{run}: "), lines[-1]]

    on = f"go on with: headrace resume {run}"
    assert told() == ["not started", on]
    attempt = claim(folder, config)
    attempt.begin(0, None)
    assert told()[0].startswith("training (attempt 1, process ")
    assert told()[1] == f"look on with: headrace metrics {run} --last 10"
    attempt.close()
    assert told() == ["died", on]  # it wrote no end, and has no checkpoint yet
    for reason, last in (("stopped", on), ("failed", on), ("trouble", on), ("finished", f"{on} steps=40")):
        attempt.record("stop", reason=reason)
        assert told() == [reason, last]
    in_environment = (Path(sys.prefix) / "bin" / "activate").is_file()
    shown = headrace.ok("status", run, cwd=tmp_path, PATH="/nowhere")
    assert (f"first: . {sys.prefix}/bin/activate\n" in shown) == in_environment


def test_the_environment_is_named_only_to_a_shell_that_does_not_know_headrace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / "my env"
    (venv / "bin").mkdir(parents=True)
    command = venv / "bin" / "headrace"
    command.write_text("#!/bin/sh\necho it runs\n")
    command.chmod(0o755)
    (venv / "bin" / "activate").write_text(f"PATH='{venv}/bin':$PATH\n")
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert next_command.activation() == ". 'my env/bin/activate'"
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        typed = f"{next_command.activation()}\nheadrace"
        done = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, cwd=folder)
        assert done.stdout == "it runs\n", done.stderr
    monkeypatch.setenv("PATH", f"{venv}/bin:/bin")
    assert next_command.activation() is None
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (venv / "bin" / "activate").unlink()
    assert next_command.activation() is None


def test_the_end_of_training_names_the_environment_first_and_the_targets_of_each_loss(
    config: run_config.Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = start(config)
    attempt = claim(folder, config)
    attempt.begin(0, None, processes=2)
    attempt.close()

    def cell(tokens: int, accuracy: float) -> dict[str, object]:
        return {"loss": 1.0, "accuracy": accuracy, "bits_per_byte": None, "tokens": tokens}

    held_out = {
        "code": {"causal": cell(1200, 0.5), "nsp": cell(30, 0.5)},
        "prose": {"causal": cell(800, 0.5), "nsp": cell(10, 0.9)},
    }
    line = {"step": 20, "attempt": 1, "eval": held_out}
    append(attempt.path / "metrics.jsonl", json.dumps(line))
    monkeypatch.setattr("launcher.reporting.summary.activation", lambda: ". env/bin/activate")
    show_summary(open_run(folder.path))
    lines = capsys.readouterr().out.splitlines()
    titles, causal, nsp = (text.split("  ") for text in lines[2:5])
    rows = [[cell.strip() for cell in row if cell.strip()] for row in (titles, causal, nsp)]
    assert rows[0][:5] == ["objective", "loss at 20", "at 20", "accuracy", "on targets"]
    assert rows[1][:5] == ["causal", "1", "1", "0.5", "2,000"]
    assert rows[2][:5] == ["nsp", "1", "1", "0.6", "40"]
    assert lines[-1] == f"go on        headrace resume {folder.path} steps=40 --processes 2"
    commands = [text.split(maxsplit=1) for text in lines if text.startswith(("first", "run", "metrics"))]
    assert commands[0] == ["first", ". env/bin/activate"]
    assert [words[0] for words in commands] == ["first", "run", "metrics"]
