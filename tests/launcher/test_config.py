"""A config is read, or refused in one line naming the file, the line, the key and the nearest right key."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from data.errors import BadInput
from launcher.config import run_config
from launcher.config.compare import WATCHING, changes
from launcher.config.messages import RENAMED, options
from launcher.config.require import require_files, require_processes, require_same_run
from launcher.config.run_config import Config
from objectives.registry import OBJECTIVES
from tests.support.commands import Commands
from tests.support.sources import ROOT

GOOD = """\
run: {name: x}
steps: 20
sequence_length: 128
batch_rows: 8
tokenizer: {model: tok.model}
data:
  corpora:
    code: {shards: code-*.tar, held_out: 0.1}
objectives:
  causal: {weight: 1}
  mlm: {weight: 2}
model: {layers: 2, width: 64, heads: 4}
optimizer:
  lr: 3e-4
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        run_config.load(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_dump_is_complete_and_reads_back_equal(file: Path, tmp_path: Path, monkeypatch) -> None:
    config = run_config.load(file)
    copy = tmp_path / "copy.yaml"
    copy.write_text(run_config.dump(config))
    monkeypatch.chdir("/")
    assert run_config.load(copy) == config
    assert config.data.corpora["code"].shards == (f"{tmp_path}/code-*.tar",)
    assert config.max_sequence_length == config.model.max_sequence_length == 128
    assert config.data.block_bytes is None
    assert config.objectives.describe()["mlm"]["select"] == 0.15
    for key in options(Config):
        if "*" not in key and key[0] != "objectives" and key != ("model", "max_sequence_length"):
            section = run_config.plain(config)
            for word in key[:-1]:
                section = section[word]
            assert key[-1] in section


def test_a_config_never_changes(file: Path) -> None:
    config = run_config.load(file)
    for section, key in [(config, "steps"), (config.data.on_bad, "budget"), (config.model, "width")]:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            setattr(section, key, 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("heads: 4", "haeds: 4", "12: model.haeds: unknown key; did you mean model.heads?"),
        ("heads: 4", "heads: 5", "12: model.heads: width 64 is not a multiple of 5 heads"),
        ("layers: 2", "layers: two", "12: model.layers: expected a whole number, got 'two'"),
        ("{layers: 2, width: 64, heads: 4}", "[2, 64]", "12: model: expected a section, got [2, 64]"),
        ("lr: 3e-4", "lr: -1", "14: optimizer.lr: expected above 0.0, got -1"),
        ("lr: 3e-4", "lr: true", "14: optimizer.lr: expected a number, got true"),
        ("lr: 3e-4", "rate: 1", "14: optimizer.rate: unknown key; known here: lr, schedule"),
        (
            "mlm: {weight: 2}",
            "mlm: {selct: 0.2}",
            "11: objectives.mlm.selct: unknown key; did you mean select?",
        ),
        (
            "mlm: {weight: 2}",
            "mlm: {select: lots}",
            "11: objectives.mlm.select: expected a number, got 'lots'",
        ),
        ("mlm: {weight: 2}", "mln: {weight: 2}", "11: objectives.mln: no such objective; did you mean mlm?"),
        ("held_out: 0.1", "weight: 0", "7: data.corpora: expected a corpus with a weight above 0"),
        ("shards: code-*.tar, ", "", "8: data.corpora.code.shards: is missing"),
        ("batch_rows: 8", "batch_rows: [[5, 8]]", "4: batch_rows: expected the first pair to begin at row 0"),
        ("batch_rows: 8", "lr: 3", "4: lr: unknown key; did you mean optimizer.lr? (and 1 more)"),
        ("steps: 20", "steps: 1e5", "2: steps: expected a whole number, got 100000.0"),
        ("steps: 20", "steps: 20\nsteps: 30", "3: steps: stands twice, first in line 2"),
        ("steps: 20", "steps: 2\neval: {samples: {prompts: [a]}}", "3: eval.samples.prompts: are written at"),
        ("name: x", "name: ../x", "1: run.name: expected a name"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(file: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    assert refusal(file).startswith(f"{file}:{expected}")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("layout.zero=0", "command line over {file}:{line}: layout: precision bf16 with zero 0"),
        ("layout.pipeline=2", "command line over {file}:{line}: layout.stages: expected the blocks of each"),
        ("seed=2", None),
    ],
)
def test_a_section_that_was_typed_over_is_not_the_files_mistake_alone(
    file: Path, edit: str, expected: str | None
) -> None:
    file.write_text(f"{GOOD.rstrip()}\nlayout: {{precision: bf16, stages: [2]}}\n")
    if expected is None:
        run_config.load(file, [edit])
        return
    line = file.read_text().count("\n")
    assert refusal(file, edit).startswith(expected.format(file=file, line=line))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.haeds=4", "command line: model.haeds: unknown key; did you mean model.heads?"),
        ("layout.tp=2", "command line: layout.tp: unknown key; did you mean layout.tensor?"),
        ("layout.pp=2", "did you mean layout.pipeline?"),
        ("layout.sp=2", "did you mean layout.sequence?"),
        ("layout.cp=2", "did you mean layout.sequence?"),
        ("layout.tensor_model_parallel_size=2", "did you mean layout.tensor?"),
        ("layout.dp=2", "the data-parallel degree follows from the number of processes"),
        ("layout.stages=1,3", "layout.stages: expected a list, got '1,3'; did you mean [1,3]?"),
        ("layout.stages=3", "layout.stages: expected a list, got 3; did you mean [3]?"),
        ("layout.precision=fp16", "command line: layout.precision: expected 'fp32' or 'bf16'"),
        ("layout={precision: bf16, zero: 0}", "layout: precision bf16 with zero 0 is not supported"),
        ("max_sequence_length=64", "max_sequence_length: expected at least sequence_length (128), got 64"),
        (
            "layout.micro_batch=99999999999999",
            "layout.micro_batch: expected at most 65536, got 99999999999999",
        ),
        ("model.width=100000000000", "model.width: expected a whole number of at most 131072, got 1000"),
        ("model.layers=100000000", "model.layers: expected a whole number of at most 4096, got 1000"),
        ("eval.samples.temperature=1e-40", "eval.samples.temperature: expected 0, or a number from 1e-06 to"),
        ("eval.samples.temperature=1e300", "eval.samples.temperature: expected 0, or a number from 1e-06 to"),
        ("eval.samples.temperature=0", None),
        (
            "data.corpora.a.quarantine=[000000300]",
            "data.corpora.a.quarantine: expected keys as text: one that is",
        ),
        ("eval={every: 2}", None),
        ("data.corpora.code.held_out=0 ", None),
        ("steps", "'steps': expected key=value"),
        ("seed.x=3", "command line: seed: expected a whole number, got a section"),
        (
            "layout.deepspeed.overlap_comm=1.5",
            "layout.deepspeed.overlap_comm: expected a whole number, got 1.5",
        ),
        ("optimizer.betas=[0.9, 0.95, 0.99]", "optimizer.betas: expected at most 2, got 3"),
        (f"run.name={101 * 'a'}", "run.name: expected at most 100 characters, got 101"),
        ("steps.x.y=3", "command line: steps: expected a whole number, got a section"),
        ("data.corpora.code.shards.0=x", "command line: data.corpora.code.shards: expected a list of globs"),
        ("data.corpora.code=null", "7: data.corpora: expected at least 1, got 0"),
        ("data.corpora={}", "changes nothing of one that is there; take one out with data.corpora.code=null"),
        (
            "model={}",
            "command line, model: an empty section changes nothing of one that is there; name the keys",
        ),
        ("steps=3\nlanes: 2", "command line, steps: expected one value, got more lines with keys: lanes"),
        ("seed=[1", "command line, seed:1: not YAML"),
        ("normalise=globl", "did you mean global?"),
    ],
)
def test_overrides_are_held_to_the_same_rules(file: Path, override: str, expected: str | None) -> None:
    if expected is None:
        run_config.load(file, [override])
    else:
        assert expected in refusal(file, override)


@pytest.mark.parametrize(
    ("tensor", "edits", "expected"),
    [
        (3, "", "layout.tensor: 3 ranks cannot have equal parts of model.heads 4; expected a divisor of 4"),
        (
            4,
            "model.kv_heads=2",
            "layout.tensor: 4 ranks cannot have equal parts of model.kv_heads 2; expected",
        ),
        (
            4,
            "model.mlp_width=90",
            "layout.tensor: 4 ranks cannot have equal parts of model.mlp_width 90; exp",
        ),
        (2, "model.attention_dropout=0.1", "model.attention_dropout: with layout.tensor the masks would"),
        (2, "model.dropout=0.1 model.kv_heads=2", None),
    ],
)
def test_a_model_that_tensor_ranks_cannot_share_is_refused(
    file: Path, tensor: int, edits: str, expected: str | None
) -> None:
    overrides = [f"layout.tensor={tensor}", *edits.split()]
    if expected is None:
        run_config.load(file, overrides)
    else:
        assert f": {expected}" in refusal(file, *overrides)


def test_evaluation_without_held_out_text_is_refused(file: Path) -> None:
    assert "eval.every: needs held-out text" in refusal(file, "data.corpora.code.held_out=0", "eval.every=5")


def test_overrides_reach_into_sections_and_take_names_out(file: Path) -> None:
    config = run_config.load(
        file, ["optimizer.lr=1e-3", "objectives.mlm=null", "data.corpora.prose.shards=[p.tar]", "steps=7"]
    )
    assert (config.optimizer.lr, config.steps) == (0.001, 7)
    assert list(config.objectives.describe()) == ["causal"]
    assert list(config.data.corpora) == ["code", "prose"]


def test_a_base_is_merged_by_sections_and_one_level_deep(file: Path, tmp_path: Path) -> None:
    child = tmp_path / "sub" / "child.yaml"
    child.parent.mkdir()
    child.write_text("base: ../c.yaml\nmodel: {width: 128}\nobjectives: {causal: , span: {weight: 1}}\n")
    config = run_config.load(child)
    assert (config.model.layers, config.model.width) == (2, 128)
    assert list(config.objectives.describe()) == ["mlm", "span"]

    child.write_text("base: ../c.yaml\nmodel: {width: 66}\n")
    assert refusal(child).startswith(f"{tmp_path}/sub/../c.yaml:12: model.heads: width 66")

    child.write_text(f"base:\n{GOOD}")
    assert run_config.load(child) == run_config.load(file)

    child.write_text("base: ../c.yaml\nmodel: {width: 66}\n")
    grandchild = tmp_path / "grandchild.yaml"
    grandchild.write_text("base: sub/child.yaml\n")
    assert "child.yaml:1: base: a base has no base of its own" in refusal(grandchild)
    grandchild.write_text("base: none.yaml\n")
    assert "none.yaml: cannot be read: No such file" in refusal(grandchild)


def test_difference_names_the_keys(file: Path) -> None:
    old = run_config.load(file)
    new = run_config.load(file, ["model.width=128", "objectives.mlm=null"])
    lines = [str(change) for change in changes(old, new)]
    assert "model.width: 64, now 128" in lines
    assert "objectives.mlm.weight: 2.0, now absent" in lines
    assert changes(old, old) == []


def test_batch_rows_may_be_stepwise(file: Path) -> None:
    assert run_config.load(file, ["batch_rows=[[0, 4], [100, 6]]"]).batch_rows == ((0, 4), (100, 6))


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_of_before_is_refused_with_what_it_is_called_now(
    file: Path, tmp_path: Path, headrace: Commands, old: tuple[str, ...]
) -> None:
    """In the file, in its base, on the command line, in a section there, and in an edit; one line each."""
    new = RENAMED[old]
    assert tuple(new.split(".")) in set(options(Config))
    said = f"{'.'.join(old)}: is called {new} now"
    assert refusal(file, f"{'.'.join(old)}=1", "run.x=1") == f"command line: {said} (and 1 more)"
    if old[1:]:
        section = "1"
        for word in reversed(old[1:]):
            section = f"{{{word}: {section}}}"
        assert refusal(file, f"{old[0]}={section}").startswith(f"command line: {said}")
    with pytest.raises(BadInput, match=f"^command line: {said}$"):
        run_config.edit(run_config.load(file), [f"{'.'.join(old)}=1"])

    base = tmp_path / "base.yaml"
    lines = [f"{'  ' * depth}{word}:" for depth, word in enumerate(old)]
    base.write_text("\n" + "\n".join(lines) + " 1\n")
    file.write_text(f"base: base.yaml\n{GOOD}")
    line = 1 + len(old)
    assert refusal(file) == f"{base}:{line}: {said}"
    file.write_text(base.read_text())
    assert headrace.refused("check", file).startswith(f"headrace: {file}:{line}: {said}")


def test_each_key_that_only_watches_is_one_and_is_told_of(file: Path) -> None:
    paragraph = (ROOT / "README.md").read_text().split("may differ from start to start:")[1].split("\n\n")[0]
    for key in WATCHING:
        assert key in set(options(Config))
        assert f"`{'.'.join(key)}`" in paragraph


def test_edits_of_a_config_are_held_to_the_same_rules(file: Path) -> None:
    config = run_config.load(file)
    assert run_config.edit(config, ["steps=40", "model.width=128"]) == run_config.load(
        file, ["steps=40", "model.width=128"]
    )
    with pytest.raises(BadInput, match=r"command line: stps: unknown key; did you mean steps\?"):
        run_config.edit(config, ["stps=1"])


def test_a_password_in_a_url_is_not_taken(file: Path) -> None:
    text = refusal(file, "data.corpora.code.shards=['https://me:secret@host/a.tar']")
    assert "a URL with a password" in text
    assert "me:secret" not in text


@pytest.mark.parametrize("key", ["data.token_cache.folder", "data.cache.folder", "run.folder", "init_from"])
def test_a_variable_in_a_path_is_not_taken_for_a_name(file: Path, key: str) -> None:
    for path in ("$SLURM_TMPDIR/x", "/scratch/${USER}/x"):
        assert "variables are not looked up here; write the path out" in refusal(file, f"{key}='{path}'")
    assert run_config.load(file, ["run.folder='/scratch/100$'"]).run.folder == "/scratch/100$"


@pytest.mark.parametrize("query", ["X-Amz-Signature=secret", "sv=1&sig=secret", "access_token=secret"])
def test_a_signature_in_a_url_is_not_taken(file: Path, query: str) -> None:
    text = refusal(file, f"data.corpora.code.shards=['https://host/a.tar?{query}']")
    assert "a URL with a signature or a key" in text
    assert "secret" not in text


def test_there_may_be_more_processes_than_lanes(file: Path) -> None:
    config = run_config.load(file)
    assert config.lanes == 12
    require_processes(config, 960)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (
            "[[0, 1], [100, 0]]",
            "data.corpora: expected a corpus with a weight above 0: all weights are 0 at row 100",
        ),
        ("[[0, 1], [0, 2]]", "data.corpora.code.weight: expected rows in ascending order, got [0, 0]"),
        ("[[-1, 1]]", "data.corpora.code.weight: expected a global row (a whole number from 0 on), got -1"),
        ("[[0, -1]]", "data.corpora.code.weight: expected a number from 0 to 1e+09, got -1"),
        ("[]", "data.corpora.code.weight: expected a number or a list of [row, value], got []"),
        ("yes", "data.corpora.code.weight: expected a number or a list of [row, value], got 'yes'"),
    ],
)
def test_weights_of_corpora_may_move(file: Path, weights: str, expected: str) -> None:
    moving = run_config.load(file, ["data.corpora.code.weight=[[0, 1], [100, 0.5]]"])
    assert moving.data.corpora["code"].weight.at(50) == 0.75
    assert run_config.build(run_config.plain(moving), {}, "again") == moving
    assert refusal(file, f"data.corpora.code.weight={weights}").endswith(expected)


def test_where_nothing_would_be_learned_is_refused(file: Path) -> None:
    corpora = refusal(file, "data.corpora.code.coefficient=0")
    assert "data.corpora: expected a corpus with a coefficient above 0: with 0 alone nothing" in corpora
    both = refusal(file, "objectives.causal.coefficient=0", "objectives.mlm.coefficient=0")
    assert "objectives: expected one with a coefficient above 0" in both


def test_processes_that_cannot_be_grouped_are_refused(file: Path) -> None:
    config = run_config.load(file, ["layout={pipeline: 2, sequence: 2}"])
    require_processes(config, 48)
    for processes, line in [
        (6, "layout: pipeline 2 × sequence 2 cannot be made of 6 processes; start a multiple of 4 "),
    ]:
        with pytest.raises(BadInput, match=f"^{re.escape(line)}"):
            require_processes(config, processes)
    with pytest.raises(BadInput, match=r"^layout: sequence 4 cannot be made of 1 process; .*--processes 4"):
        require_processes(run_config.load(file, ["layout.sequence=4"]), 1)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (["sequence_length=127"], "sequence_length: expected a multiple of layout.sequence (2), got 127"),
        (
            ["model={width: 96, heads: 3}"],
            "model.heads: expected a multiple of layout.sequence (2), got 3",
        ),
        (["model.dropout=0.1"], "model.dropout: expected 0 with layout.sequence 2, got 0.1: each process"),
        (
            ["model.attention_dropout=0.2"],
            "model.attention_dropout: expected 0 with layout.sequence 2, got 0.2: each process",
        ),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(file: Path, edits: list[str], expected: str) -> None:
    """At a start, and where a run is edited; heads of keys and values may be any."""
    assert run_config.load(file, edits).layout.sequence == 1
    assert expected in refusal(file, *edits, "layout.sequence=2")
    config = run_config.load(file, ["layout.sequence=2", "model={width: 48, heads: 6, kv_heads: 3}"])
    with pytest.raises(BadInput, match=re.escape(expected)):
        run_config.edit(config, edits)


def test_a_missing_tokenizer_is_named(file: Path) -> None:
    with pytest.raises(BadInput, match=r"tokenizer\.model: no file .*tok\.model; make one with"):
        require_files(run_config.load(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", ":1: expected sections"),
        ("a: [1\nb: 2", "not YAML"),
        (
            "a: !!python/object/apply:os.system [echo]",
            ":1: not YAML: a value of type tag:yaml.org,2002:python",
        ),
        ("a: !!python/name:os.system x", ":1: not YAML: a value of type"),
        ("a: &x [*x]", ":1: an alias that contains itself"),
        ("a: \x07", "not YAML"),
        ("", "c.yaml: is empty; expected sections"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: " + "9" * 5000, "a number too long"),
        ('a: !!int "0x4"', ":1: not YAML: '0x4' is no int"),
        ("a:\n  b: !!bool maybe", ":2: not YAML: 'maybe' is no bool"),
        ("a: !!float abc", ":1: not YAML: 'abc' is no float"),
        ('a: !!float ""', ":1: not YAML: '' is no float"),
        ("a: 1\nb: !!null x", ":2: not YAML: 'x' is no null"),
        ("a: !!bool yes", ":1: not YAML: 'yes' is no bool"),
        ("a: !!set {b}", ":1: not YAML: a value of type tag:yaml.org,2002:set"),
        (
            "a: 2024-01-01\nb: !!timestamp 2024-01-01",
            ":2: not YAML: a value of type tag:yaml.org,2002:timestamp",
        ),
        ("a: &a {b: 1}\nc:\n  <<: *a", ":3: YAML 1.2 has no merge keys (<<); write the keys out, or"),
        ("a: 1\n---\nb: 2", ":2: not YAML: but found another document"),
        ('run: {name: "\\ud800"}', ":1: not YAML: an escape that is half of a surrogate pair"),
        ('run: {"\\ud800": a}', ":1: not YAML: an escape that is half of a surrogate pair"),
        ('run:\n  "": a', ":2: expected a plain word as a key"),
        ('base: "a\\0"', "a\\x00': expected the path of a config, without a zero character in it"),
        (
            "a0: &a0 []\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
            "more than",
        ),
    ],
)
def test_what_is_no_config_is_refused(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    assert expected in refusal(file)


def test_numbers_and_names_are_what_they_look_like(file: Path) -> None:
    file.write_text(GOOD.replace("    code:", "    no:").replace("3e-4", "1_000e-6"))
    config = run_config.load(file)
    assert list(config.data.corpora) == ["no"]
    assert config.optimizer.lr == 0.001


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optimizer.lr=1e-3", 0.001),
        ("optimizer.lr=.5e-3", 0.0005),
        ("steps=017", 17),
        ("steps=+20", 20),
        ("fingerprint=True", True),
        ("run.name=no", "no"),
        ("run.name=on", "on"),
        ("run.name=0o17", "0o17"),
        ("run.name=2024-01-01", "2024-01-01"),
        ("wandb.project=12:30:00", "12:30:00"),
        ("wandb.project=0x1F", "0x1F"),
        ("wandb.project='1e3'", "1e3"),
        ("wandb.entity=~", None),
    ],
)
def test_words_are_those_of_yaml_1_2(file: Path, override: str, value: object) -> None:
    """Where YAML 1.1 reads a bool, a sexagesimal, an octal or a date."""
    config = run_config.plain(run_config.load(file, [override]))
    section, _, key = override.partition("=")[0].rpartition(".")
    assert (config[section] if section else config)[key] == value
    assert type((config[section] if section else config)[key]) is type(value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fingerprint=yes", "fingerprint: expected true or false, got 'yes'"),
        ("fingerprint=on", "fingerprint: expected true or false, got 'on'"),
        ("fingerprint=1", "fingerprint: expected true or false, got 1"),
        ("steps=0o17", "steps: expected a whole number, got '0o17'; or tokens, as in 20B tokens"),
        ("steps=0x1F", "steps: expected a whole number, got '0x1F'; or tokens, as in 20B tokens"),
        ("steps=1:30", "steps: expected a whole number, got '1:30'; or tokens, as in 20B tokens"),
        ("optimizer.lr=.inf", "optimizer.lr: expected a finite number, got inf"),
        ("optimizer.lr=1e400", "optimizer.lr: expected a finite number, got inf"),
        ("run.name=1e3", "run.name: expected text, got 1000.0"),
        ("wandb.project=2024", "wandb.project: expected text, got 2024"),
    ],
)
def test_a_word_of_another_type_is_one_line(file: Path, override: str, expected: str) -> None:
    assert refusal(file, override) == f"command line: {expected}"


def test_every_recipe_loads() -> None:
    recipes = sorted(Path("configs").glob("*.yaml"))
    assert len(recipes) >= 3
    for recipe in recipes:
        run_config.load(recipe)


def test_the_set_of_options_is_frozen() -> None:
    """An option is a promise. To add or remove one, change this list, and let something read the option."""
    keys = {".".join(map(str, key)) for key in options(Config)} - {"model.max_sequence_length"}
    for objective in OBJECTIVES:
        keys |= {f"objectives.{objective.name}.{field.name}" for field in fields(objective)}
    listed = (ROOT / "tests" / "options.txt").read_text().split()
    assert sorted(keys) == listed, f"new: {keys - set(listed)}, gone: {set(listed) - keys}"


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        (
            ["model={width: 96, heads: 3}"],
            "model.heads: expected 4, which the weights",
        ),
        (["model.layers=1"], "model.layers: expected 2"),
        (["model.norm_placement=post"], "model.norm_placement: expected pre"),
        (["model.kv_heads=2"], "model.kv_heads: expected 4"),
    ],
)
def test_a_model_that_its_weights_do_not_mean_is_refused(file: Path, edits: list[str], line: str) -> None:
    """Also where all shapes agree; what changes no weight's meaning may be edited."""
    config = run_config.load(file, ["model={layers: 2, width: 96, heads: 4}"])
    require_same_run(config, run_config.edit(config, ["model.dropout=0.1", "model.rope_base=5e5"]))
    with pytest.raises(BadInput, match=re.escape(line)):
        require_same_run(config, run_config.edit(config, edits))


def test_a_rope_base_where_nothing_reads_it_is_refused(file: Path) -> None:
    config = run_config.load(file, ["model.positions=learned"])
    with pytest.raises(BadInput, match="learned positions have none"):
        require_same_run(config, run_config.edit(config, ["model.rope_base=5e5"]))
