"""`headrace check --resolved`: every key once, with its value and the place that it comes from."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from launcher.config import run_config
from launcher.config.compare import flat
from launcher.config.resolved import as_json, as_yaml, resolve
from launcher.config.yaml_reader import dotted, parse
from objectives.mlm import Mlm
from objectives.registry import NAMES
from tests.support.commands import Commands
from tests.support.sources import ROOT

BASE = """\
steps: 20
sequence_length: 128
batch_rows: [[0, 8], [80, 16]]
tokenizer: {model: tok.model}
data:
  corpora:
    code: {shards: code-*.tar, weight: 2}
    gone: {shards: gone.tar, weight: 7}
    back: {shards: back.tar, weight: 8}
objectives:
  causal:
  mlm: {select: 0.2}
model: {layers: 2, width: 64, heads: 4}
optimizer:
  schedule: wsd
  warmup: 2
"""
OVER = """\
base: base.yaml
run: {name: x}
data:
  corpora:
    code: {held_out: 0.1}
    gone:
    back:
    prose:
      shards: prose.tar
eval:
  every: 5
  samples:
    prompts: ["a # b\\nc", "no"]
objectives:
  nsp: {mlm: {select: 0.3}}
wandb: {entity: ~}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("c.yaml").write_text(OVER)
    Path("tok.model").write_bytes(b"pieces")
    return "c.yaml"


def resolved(file: str, *overrides: str) -> dict:
    """As --json has it; the text of the same is read back to the same config."""
    config = run_config.load(file, overrides)
    settings = resolve(file, overrides, config)
    Path("again.yaml").write_text(as_yaml(settings))
    assert run_config.load("again.yaml") == config
    return as_json(settings)


def test_every_option_appears_exactly_once(file: str) -> None:
    overrides = [f"objectives.{name}={{weight: 1}}" for name in NAMES] + ["eval.corpora.val.shards=val.tar"]
    keys = [*resolved(file, *overrides)]
    text = Path("again.yaml").read_text()
    assert [dotted(key) for key in flat(parse(text, "text").data)] == keys
    assert len([line for line in text.splitlines() if " # " in line]) == len(keys)

    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    assert not sections & {*keys}
    options = (ROOT / "tests" / "options.txt").read_text().split()
    objectives = [f"objectives.{name}" for name in NAMES]
    wanted = {option for option in options if "*" not in option} | {*objectives}
    for name in ("data.corpora.code", "data.corpora.prose", "eval.corpora.val"):
        above = name.rpartition(".")[0] + ".*"
        wanted |= {name} | {option.replace(above, name) for option in options if option.startswith(above)}
    wanted |= {f"{name}.{key}" for name in objectives for key in ("weight", "coefficient")}
    wanted |= {f"objectives.nsp.mlm.{field.name}" for field in fields(Mlm)}
    assert sections | {*keys} == wanted


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("run.name", "x", "c.yaml:2"),
        ("steps", 30, "command line"),
        ("batch_rows", [[0, 8], [80, 16]], "base.yaml:3"),
        ("seed", 1, "default"),
        ("lanes", 12, "default"),
        # Named sections, which three layers make together
        ("data.corpora.code.weight", 2.0, "base.yaml:7"),
        ("data.corpora.code.held_out", 0.1, "c.yaml:5"),
        ("data.corpora.code.text_field", "body", "command line"),
        ("data.corpora.code.index", None, "default"),
        ("data.corpora.prose.weight", 1.0, "default"),
        ("data.corpora.prose.quarantine", [], "default"),
        # One that was taken out and is there again has nothing of before
        ("data.corpora.back.weight", 1.0, "default"),
        ("data.corpora.back.held_out", 0.2, "command line"),
        ("objectives.causal.weight", 1.0, "default"),
        ("objectives.mlm.select", 0.2, "base.yaml:12"),
        ("objectives.mlm.mask", 0.8, "default"),
        ("objectives.nsp.mlm.select", 0.3, "c.yaml:15"),
        ("objectives.nsp.mlm.keep", 0.1, "default"),
        ("objectives.nsp.pair_weight", None, "default"),
        # A section in one override, and a key of it in the next
        ("layout.zero", 2, "command line"),
        ("layout.micro_batch", 4, "command line"),
        ("layout.precision", "fp32", "default"),
        ("eval.samples.prompts", ["a # b\nc", "no"], "c.yaml:13"),
        ("eval.samples.tokens", 64, "default"),
        ("wandb.entity", None, "c.yaml:16"),
        ("optimizer.betas", [0.9, 0.95], "default"),
        ("optimizer.lr", 0.001, "command line"),
        # What follows from other keys
        ("max_sequence_length", 128, "derived"),
        ("data.block_bytes", 131072, "derived"),
        ("model.mlp_width", 192, "derived"),
        ("model.kv_heads", 4, "derived"),
        ("optimizer.decay", 6, "derived"),
    ],
)
def test_each_value_comes_from_where_it_stands(file: str, key: str, value: object, origin: str) -> None:
    overrides = ["steps=30", "data.corpora.code.text_field=body", "layout={zero: 2}", "layout.micro_batch=4"]
    overrides += ["data.corpora.back={shards: b.tar, held_out: 0.2}", "optimizer.lr=1e-3"]
    found = resolved(file, *overrides)
    assert found[key] == {"value": value, "from": origin}
    assert not any(key.startswith("data.corpora.gone") for key in found)


def test_what_is_derived_unless_it_is_said(file: str) -> None:
    said = ["max_sequence_length=256", "model.kv_heads=2", "model.mlp_width=96", "optimizer.decay=3"]
    found = resolved(file, *said, "data.block_bytes=5000")
    keys = ("max_sequence_length", "model.kv_heads", "model.mlp_width", "optimizer.decay", "data.block_bytes")
    assert [found[key]["from"] for key in keys] == ["command line"] * 5
    assert [found[key]["value"] for key in keys] == [256, 2, 96, 3, 5000]
    found = resolved(file, "max_sequence_length=null", "model.kv_heads=null", "optimizer.schedule=cosine")
    assert [found[key]["from"] for key in keys] == ["derived", "derived", "derived", "default", "derived"]
    text = Path("again.yaml").read_text()
    assert [line.split() for line in text.splitlines() if "mlp_width" in line] == [
        ["mlp_width:", "null", "#", "derived:", "192"]
    ]


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x85b", "a\u2028b", "a\x07b", "a\udcffb", "a # b: [é"])
def test_the_text_is_read_back_whatever_the_file_and_the_folder_of_the_run_are_called(
    name: str, file: str, headrace: Commands, tmp_path: Path
) -> None:
    named = Path(file).rename(f"{name}.yaml")
    resolved(str(named))

    from launcher.runs.run_folder import claim, start

    first = run_config.load(named, [f"run.folder={name}"] if name.isprintable() else ['run.folder="a\\nb"'])
    folder, _ = start(first)
    attempt = claim(folder, first)
    attempt.begin(0, None)
    attempt.close()
    Path("kept.yaml").write_text(run_config.dump(first))
    Path("shown.yaml").write_text(headrace.ok("check", "kept.yaml", "--resolved", cwd=tmp_path))
    assert run_config.load("shown.yaml") == first


def test_of_a_run_that_exists_it_is_the_config_in_force(
    file: str, headrace: Commands, tmp_path: Path
) -> None:
    """What a resume edited comes from the run's own config; what only watches, from the one that is given."""
    from launcher.runs.run_folder import claim, start

    first = run_config.load(file)
    folder, _ = start(first)
    new = headrace.ok("check", file, "--resolved", "steps=21", cwd=tmp_path)  # nothing has begun yet
    assert "# the run" not in new
    edits = ["optimizer.lr=0.5", "data.corpora.late.shards=l.tar", "log.every=7", "sequence_length=64"]
    attempt = claim(folder, run_config.edit(first, edits))
    attempt.begin(0, None)
    attempt.close()

    out = headrace.ok("check", file, "log.every=9", "--resolved", "--json", cwd=tmp_path)
    found = json.loads(out)
    kept = folder.attempt_path(1) / "config.yaml"
    lines = kept.read_text().splitlines()
    assert found["optimizer.lr"] == {"value": 0.5, "from": f"{kept}:{1 + lines.index('  lr: 0.5')}"}
    late = found["data.corpora.late.weight"]
    assert (late["value"], late["from"].partition(":")[0]) == (1.0, str(kept))
    assert found["log.every"] == {"value": 9, "from": "command line"}
    assert found["steps"] == {"value": 20, "from": "base.yaml:1"}
    assert found["model.kv_heads"] == {"value": 4, "from": "derived"}
    assert found["max_sequence_length"] == {"value": 128, "from": "derived"}  # of what was first asked for

    shown = headrace.ok("check", file, "--resolved", cwd=tmp_path)
    assert shown.startswith(f"# the run {folder.path} exists and goes on with this; its own: {kept}\n")
    (tmp_path / "shown.yaml").write_text(shown)
    assert run_config.load("shown.yaml") == run_config.edit(first, [*edits, "log.every=10"])
    line = headrace.refused("check", file, "--resolved", "steps=21", cwd=tmp_path)
    assert "this run exists with another config (steps: 20, now 21; " in line
