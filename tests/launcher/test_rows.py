"""`data show`, `trace` and `seen`: against what loaders really emitted, and as a user reads them."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.durable import append
from data.errors import BadInput
from data.plan.history_file import read_history
from data.plan.positions import StreamPositions
from data.plan.steps import rows_of_step
from data.provenance.openings import OpeningsLog
from data.provenance.trace import Part, TracedRow, TracedSegment
from data.stream.loader import Loader
from data.stream.rows import DTYPES, Rows, step_fingerprint
from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.reporting.row_view import control_names, row_lines, segment_marks, visible
from launcher.reporting.rows import seen, show, trace
from launcher.runs.plan_history import go_on, keep
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder, claim, start
from launcher.runs.stream_settings import open_corpora
from tests.support.helpers import Corpora
from tests.support.sources import ROOT

CONFIG = """\
run: {name: r, folder: FOLDER/runs}
steps: 99
sequence_length: 128
max_sequence_length: 256
batch_rows: 7
tokenizer: {model: CORPORA/tokenizer.model}
data:
  block_bytes: 20000
  corpora:
    code: {shards: CORPORA/code-*.tar, weight: 2, held_out: 0.1}
    prose: {shards: CORPORA/prose-*.tar, weight: 1, held_out: 0.1}
objectives: {causal: {}, reverse: {}, mlm: {}, nsp: {}, prefix: {}, span: {}, fim: {}}
model: {layers: 1, width: 32, heads: 2}
optimizer: {}
"""

PIECE = {"corpus", "shard", "key", "piece", "objective", "first", "length", "cut", "parts"}


@pytest.fixture(scope="module")
def file(corpora: Corpora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    path = folder / "c.yaml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)).replace("CORPORA", str(corpora.folder)))
    return path


def attempt(
    run: RunFolder, config: run_config.Config, world: int, at: Progress | None, parent: int | None, steps: int
) -> list[Progress]:
    """What `headrace train` does around the engine: one attempt of `world` ranks that does `steps` steps and
    is killed. Returns where it was after each."""
    corpora, tokenizer = open_corpora(config), Tokenizer.load(run.tokenizer)
    history = go_on(run, config, corpora, tokenizer.hash, at)
    at = at or Progress(history)
    keep(run, history)
    held = claim(run, config)
    held.begin(step=at.step, parent=parent, row=at.row)
    hashes: dict[int, dict[int, int]] = defaultdict(dict)
    states: dict[int, list[StreamPositions]] = defaultdict(list)
    for rank in range(world):
        log = OpeningsLog(held.path / f"openings-{rank:04d}.bin")
        with Loader(
            history,
            corpora,
            tokenizer,
            rank=rank,
            world=world,
            first_row=at.row,
            state=at.streams,
            micro_batch=2,
            threads=0,
            memory_bytes=1 << 30,
            log=log,
        ) as loader:
            for step in range(steps):
                batch = next(loader)
                states[step].append(batch.state)
                hashes[step] |= dict(zip(batch.numbers.tolist(), batch.rows.fingerprints()))
        log.close()
    passed = []
    for step in range(steps):
        numbers = sorted(number for number in hashes[step] if number >= 0)
        line: dict[str, Any] = {
            "step": at.step + step + 1,
            "rows": numbers[-1] + 1,
            "fingerprint": step_fingerprint([hashes[step][number] for number in numbers]),
        }
        append(held.path / "metrics.jsonl", json.dumps(line))
        passed.append(
            Progress(history, line["step"], line["rows"], 0, 0, StreamPositions.merge(states[step]))
        )
    held.close()
    return passed


@pytest.fixture(scope="module")
def run(file: Path) -> RunFolder:
    """A run of three attempts on 2, 3 and 1 ranks. Each but the last goes on for some steps after its last
    checkpoint; the third begins with an edit of T, B and the weights. 30 steps count."""
    folder, config = start(run_config.load(file))
    first = attempt(folder, config, 2, None, None, 13)
    second = attempt(folder, config, 3, first[9], 1, 13)
    edited = run_config.edit(config, ["sequence_length=256", "batch_rows=5", "data.corpora.prose.weight=3"])
    attempt(folder, edited, 1, second[9], 2, 10)
    return folder


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    """The JSON lines of stdout; stderr."""
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


def as_rows(objects: Iterable[dict[str, Any]]) -> Rows:
    listed = list(objects)
    return Rows.of({name: np.array([o[name] for o in listed], dtype) for name, dtype in DTYPES.items()})


def test_show_prints_the_rows_that_a_fresh_run_trains_on(
    file: Path, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config.load(file)
    show(config, step=4, row=None, json=True)
    objects, noted = printed(capsys)
    assert f"headrace data trace {run.path} --step 4" in noted
    assert [o["row"] for o in objects] == list(range(21, 28))
    recorded = json.loads((run.attempt_path(1) / "metrics.jsonl").read_text().splitlines()[3])
    assert step_fingerprint(as_rows(objects).fingerprints()) == recorded["fingerprint"]
    for row in objects:
        assert row.keys() == {"row", "step", "lane", "stream", *DTYPES, "pieces"}
        assert (row["step"], row["lane"]) == (4, row["row"] % 12)
        assert sum(segment["length"] for segment in row["pieces"]) == sum(c >= 0 for c in row["corpus"])
        for segment in row["pieces"]:
            assert segment.keys() == PIECE
            assert set(row["start"][segment["first"] :][: segment["length"]]) == {segment["first"]}
    show(run_config.edit(config, ["run.name=new"]), step=4, row=3, json=True)
    assert printed(capsys) == (objects[3:4], "")
    with pytest.raises(BadInput, match="--row: step 4 has the rows 0 to 6, got 7"):
        show(config, step=4, row=7, json=True)


def test_trace_finds_every_step_along_the_lineage(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 31):
        trace(run, step=step, row=None, json=True)
        objects, noted = printed(capsys)
        assert "fingerprint agrees" in noted
        assert len(objects) == (7 if step <= 20 else 5)
        assert len(objects[0]["tokens"]) == (128 if step <= 20 else 256)
    trace(run, step=30, row=4, json=True)
    assert printed(capsys) == (objects[4:], "")
    with pytest.raises(BadInput, match="has not done step 31; its newest is 30"):
        trace(run, step=31, row=None, json=True)
    with pytest.raises(BadInput, match="0 to 4"):
        trace(run, step=30, row=5, json=True)


def test_rows_that_are_not_what_was_trained_on_are_not_shown(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run.attempt_path(2) / "metrics.jsonl"
    content = metrics.read_text()
    line = json.loads(content.splitlines()[3])
    try:
        metrics.write_text(content.replace(line["fingerprint"], "0" * 16))
        with pytest.raises(BadInput, match="trained on 0000000000000000"):
            trace(run, step=14, row=None, json=True)
        metrics.write_text(content.replace('"rows": 98', '"rows": 99'))
        with pytest.raises(BadInput, match="up to 98"):
            trace(run, step=14, row=None, json=True)
    finally:
        metrics.write_text(content)
    assert capsys.readouterr().out == ""


def test_a_run_that_lacks_what_a_trace_needs(
    run: RunFolder, file: Path, tmp_path: Path, corpora: Corpora
) -> None:
    config = run_config.edit(run_config.load(file), [f"run.folder={tmp_path}"])
    empty, _ = start(config)
    with pytest.raises(BadInput, match="has not finished a step"):
        trace(empty, step=1, row=None, json=True)
    attempt(empty, config, 1, None, None, 1)
    model = empty.tokenizer.read_bytes()
    changed = Tokenizer(model)
    empty.tokenizer.write_bytes(model + b"\x12\x00")  # an empty trainer_spec: the same pieces, another file
    assert Tokenizer.load(empty.tokenizer).hash != changed.hash
    with pytest.raises(BadInput, match="not the tokenizer that the run was started with"):
        trace(empty, step=1, row=None, json=True)
    empty.tokenizer.write_bytes(model)
    empty.plan.unlink()
    with pytest.raises(BadInput, match="is missing"):
        seen(empty, keys=["000000001"], json=True)


def test_seen_lists_every_use(run: RunFolder, corpora: Corpora, capsys: pytest.CaptureFixture[str]) -> None:
    expected: dict[tuple[str, str], set[tuple[int, int, str]]] = defaultdict(set)
    for step in range(1, 31):
        trace(run, step=step, row=None, json=True)
        for row in printed(capsys)[0]:
            for segment in row["pieces"]:
                for part in segment["parts"]:
                    use = step, row["row"], segment["objective"]
                    expected[segment["corpus"], part["key"]].add(use)
    used = {name: {key for corpus, key in expected if corpus == name} for name in ("code", "prose")}
    asked, both = sorted(used["prose"])[:6], min(used["code"])
    seen(run, keys=[*(f"prose/{key}" for key in asked), both], json=True)
    found, _ = printed(capsys)
    assert [(o["corpus"], o["key"]) for o in found[-2:]] == [("code", both), ("prose", both)]
    for o in found:
        uses = {(use["step"], use["row"], use["objective"]) for use in o["uses"]}
        assert uses == expected[o["corpus"], o["key"]]
    history = read_history(run.plan)
    step, number, objective = min(expected["prose", asked[0]])
    place = number - rows_of_step(history, step)[0]
    seen(run, keys=[f"prose/{asked[0]}"], json=False)
    name = f"prose/prose-000000.tar/{asked[0]}"
    line = f"{name}: step {step}, row {place} of the step (global row {number}), {objective}"
    first, *uses = capsys.readouterr().out.splitlines()
    assert line in uses
    taken = {step for step, _, _ in expected["prose", asked[0]]}
    assert first == (
        f"{name}: used {len(uses)} times, different steps: {len(taken)}, from step {min(taken)} "
        f"to step {max(taken)}"
    )


def test_seen_says_why_a_document_was_not_used(
    run: RunFolder, corpora: Corpora, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [
        sample.key for unit in range(len(corpora.open("prose").index)) for sample in _unit(corpora, unit)
    ]
    seen(run, keys=[f"prose/{key}" for key in every], json=True)
    found, _ = printed(capsys)
    held_out = [o for o in found if o["held_out"]]
    assert 0 < len(held_out) < len(every)
    assert not any(o["uses"] for o in held_out)
    unused = next(o["key"] for o in found if not o["uses"] and not o["held_out"])
    seen(run, keys=[f"prose/{held_out[0]['key']}", f"prose/{unused}"], json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("held out, never trained on")
    assert second.endswith("not used in the run's 190 rows so far")
    with pytest.raises(
        BadInput, match=r"^prose/nothing: no such sample in prose; one that is: prose/prose-000000\.tar/0{9}$"
    ):
        seen(run, keys=["prose/nothing"], json=False)
    with pytest.raises(
        BadInput, match=r"^nothing: no such sample in code, prose; one that is: code/code-000000\.tar/0{9}$"
    ):
        seen(run, keys=["nothing"], json=False)


def _unit(corpora: Corpora, unit: int) -> Any:
    return corpora.open("prose").read_unit(unit)


def hand_made(
    tokenizer: Tokenizer, tokens: list[int], targets: list[int], bound: list[int], objective: int
) -> TracedRow:
    """A row of one segment and one position of padding."""
    n = len(tokens)
    blank = Rows.blank(1, n + 1, tokenizer.control.pad)
    blank.tokens[0, :n], blank.targets[0, :n] = tokens, targets
    blank.start[0, :n], blank.bound[0, :n] = 0, bound
    blank.objective[0, :n], blank.corpus[0, :n] = objective, 0
    part = Part("/shards/code-000000.tar", "000000007", 3, 3 + n)
    return TracedRow(0, blank, (TracedSegment("code", 2, "made", 0, n, (part,)),))


def plain(tokenizer: Tokenizer, row: TracedRow) -> list[str]:
    return row_lines(row, "row", control_names(tokenizer), tokenizer, colour=False).plain.splitlines()


def test_marks_of_each_kind_of_target(corpora: Corpora) -> None:
    tokenizer = corpora.tokenizer()
    control = tokenizer.control
    the, name, newline = (int(tokenizer.encode(text)[0]) for text in (" the", " name", "\n"))
    causal = hand_made(
        tokenizer, [control.begin, the, name, newline], [the, name, newline, control.end], [0, 1, 2, 3], 0
    )
    assert plain(tokenizer, causal) == [
        "━━ row ━━",
        "── made, positions 0–3, each position sees those before it · "
        "code-000000.tar 000000007 tokens 3–7, segment 2",
        "‹begin›⟦ the name‹⏎→end›⟧",
        "── padding: 1 positions",
    ]
    mlm = hand_made(tokenizer, [the, control.mask, name, name], [-1, name, -1, name], [3, 3, 3, 3], 2)
    assert "sees all" in plain(tokenizer, mlm)[1]
    assert plain(tokenizer, mlm)[2] == " the‹mask→␣name› name‹␣name→␣name›"
    nsp = hand_made(tokenizer, [control.cls, the, control.sep, name, control.sep], [0] + 4 * [-1], 5 * [4], 3)
    assert plain(tokenizer, nsp)[2] == "‹cls→not the next› the‹sep› name‹sep›"
    span = hand_made(
        tokenizer,
        [the, control.sentinels[0], control.sentinels[0], name],
        [-1, control.sentinels[0], name, control.end],
        [1, 1, 2, 3],
        5,
    )
    assert "all see the first 2" in plain(tokenizer, span)[1]
    assert plain(tokenizer, span)[2] == " the‹s0›⟦‹s0›‹␣name→end›⟧"


def test_every_target_of_every_objective_is_marked_once(
    run: RunFolder, corpora: Corpora, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = corpora.tokenizer()
    names = control_names(tokenizer)
    met = set()
    for step in range(1, 31):
        trace(run, step=step, row=None, json=True)
        for o in printed(capsys)[0]:
            row = TracedRow(o["row"], as_rows([o]), ())
            for p in o["pieces"]:
                met.add(p["objective"])
                segment = TracedSegment(p["corpus"], p["piece"], p["objective"], p["first"], p["length"], ())
                marks = list(segment_marks(row, segment, names, tokenizer))
                place = slice(segment.first, segment.first + segment.length)
                beside = sum(mark.kind == "target" for mark in marks)
                targets = (row.rows.targets[0, place] >= 0).sum()
                assert beside == targets if p["objective"] in ("mlm", "nsp") else beside <= 1
                if p["objective"] not in ("mlm", "nsp"):
                    assert any(mark.predicted for mark in marks) or targets == beside
    assert met == {"causal", "reverse", "mlm", "nsp", "prefix", "span", "fim"}


def test_text_cannot_move_the_cursor() -> None:
    assert visible("a\x1b[31m\tb\r\n\u202e\u200bé\x7f") == "a␛[31m⇥b␍⏎\\u202e\\u200bé\\u007f"


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
    )


def test_as_typed(run: RunFolder, file: Path) -> None:
    shown = headrace("data", "show", str(file), "--step", "2", "--row", "1")
    traced = headrace("data", "trace", str(run.path), "--step", "2", "--row", "1")
    assert shown.returncode == traced.returncode == 0
    assert shown.stdout == traced.stdout
    assert "step 2, row 1 of 7 · global row 8 ·" in shown.stdout
    assert "\x1b" not in shown.stdout
    coloured = headrace("data", "trace", str(run.path), "--step", "2", "--row", "1", FORCE_COLOR="1")
    assert "\x1b[" in coloured.stdout
    assert "⟦" not in coloured.stdout
    without = headrace(
        "data", "trace", str(run.path), "--step", "2", "--row", "1", FORCE_COLOR="1", NO_COLOR="1"
    )
    assert "\x1b[3" not in without.stdout
    late = headrace("data", "trace", str(run.path), "--step", "99")
    assert (late.returncode, late.stderr.count("\n"), late.stdout) == (2, 1, "")
