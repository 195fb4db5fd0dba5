"""`headrace check`: its exact figures are those of the things themselves, its estimates near them."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from data.durable import append
from data.errors import BadInput
from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.segments import PlanSegments
from data.stream.block import Opener
from data.stream.token_cache import TokenCache
from data.tokenization.check import CheckReport
from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.engine.stages import stage_borders
from launcher.preflight import estimates
from launcher.preflight.check import report
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.run_folder import RunFolder, start
from launcher.runs.stream_settings import open_corpora, stream_settings
from model.share import Share
from model.transformer import Transformer
from objectives.registry import HEADS
from tests.support.commands import Commands
from tests.support.helpers import Corpora, TrainingText, pack_texts
from tests.support.sources import ROOT

CONFIG = """\
run: {{name: r, folder: {folder}/runs}}
steps: 100
sequence_length: 128
batch_rows: [[0, 8], [80, 16]]
tokenizer: {{model: {model}}}
data:
  corpora:
    code: {{shards: '{code}', weight: 3, held_out: 0.1}}
    prose: {{shards: '{prose}', weight: 1}}
objectives: {{causal: {{weight: [[0, 1], [1520, 3]]}}, mlm: {{}}}}
model: {{layers: 2, width: 64, heads: 4}}
optimizer: {{warmup: 10}}
layout: {{zero: 1, micro_batch: 4}}
checkpoint: {{every: 30, keep: 2, keep_every: 60}}
"""


@pytest.fixture
def file(tmp_path: Path, corpora: Corpora) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        CONFIG.format(folder=tmp_path, model=corpora.tokenizer_path, code=corpora.code, prose=corpora.prose)
    )
    return path


def test_exact_figures(file: Path, corpora: Corpora) -> None:
    config = run_config.load(file)
    facts = report(config, 2)
    # Ten steps of 8 rows, then ninety of 16.
    assert facts["whole"] == facts["whole"] | {"steps": 100, "rows": 80 + 90 * 16}
    assert facts["step"] == {
        "rows": 8,
        "length": 128,
        "positions": 1024,
        "processes": 2,
        "data_ranks": 2,
        "micro_batches": 1,
        "blank_rows": 0,
    }
    code, prose = facts["corpora"]
    assert (code["share"], prose["share"]) == (0.75, 0.25)
    index = corpora.open("code").index
    assert code["text_bytes"] + code["held_out_bytes"] == index.text_bytes
    assert 0 < code["held_out_bytes"] < 0.3 * index.text_bytes
    assert prose["held_out_bytes"] == 0
    assert [part["share"] for part in facts["objectives"]] == [0.5, 0.5]
    assert [part["share_at_end"] for part in facts["objectives"]] == [0.75, 0.25]
    assert [part["measured"] for part in facts["objectives"]] == pytest.approx([0.5, 0.5], abs=0.005)
    # Saved at 30, 60, 90, 100; kept whole: 90, 100 and 60 for ever.
    assert (facts["checkpoints"]["whole"], facts["checkpoints"]["weights_only"]) == (3, 0)
    assert facts["warnings"] == []

    model = Transformer(config.model, facts["model"]["vocabulary"], HEADS, corpora=2)
    count = sum(p.numel() for p in model.parameters())
    assert facts["model"]["parameters"] == count
    largest = max(p.numel() for p in model.parameters())
    # Drawn one at a time; loaded and saved are the masters and moments of a rank's half.
    assert facts["host_memory"] == {"start": 4 * largest, "load": 2 * count, "save": 6 * count, "samples": 0}
    sampled = run_config.load(file, ["eval.every=50", "eval.samples.prompts=[a]", "layout.zero=0"])
    host = {"start": 4 * largest, "load": 4 * count, "save": 6 * count, "samples": 4 * count}
    assert report(sampled, 2)["host_memory"] == host


def test_a_pipeline_is_asked_stage_by_stage(file: Path, headrace: Commands) -> None:
    """Its bubble, the dearest stage over the mean, the memory of each; rows are those of data ranks."""
    edits = ["layout.pipeline=2", "layout.micro_batch=1", "model.layers=5", "batch_rows=8"]
    facts = json.loads(headrace.ok("check", file, *edits, "--processes", "4", "--json"))
    step, stages = facts["step"], facts["stages"]
    assert (step["processes"], step["data_ranks"], step["micro_batches"]) == (4, 2, 4)
    assert sum(stage["blocks"] for stage in stages) == 5
    assert facts["bubble"] == 1 / 5
    config = run_config.load(file, edits)
    borders = stage_borders(config.layout, config.model, facts["model"]["vocabulary"], 128)
    for stage, (begin, end) in zip(stages, pairwise(borders), strict=True):
        part = Transformer(config.model, facts["model"]["vocabulary"], HEADS, 2, part=range(begin, end))
        assert stage["parameters"] == sum(p.numel() for p in part.parameters())
    assert sum(stage["cost"] for stage in stages) == pytest.approx(2)
    assert facts["memory"] == max((stage["memory"] for stage in stages), key=lambda held: held["total"])
    shown = headrace.ok("check", file, *edits, "--processes", "4")
    assert "4 processes (2 of the data) in 4 micro-batches each" in shown
    assert "each waits 20.0 % of a step" in shown


def test_tensor_ranks_hold_their_share_of_the_blocks(file: Path) -> None:
    config = run_config.load(file, ["layout.tensor=2", "layout.zero=3"])
    facts = report(config, 4)
    model = Transformer(config.model, facts["model"]["vocabulary"], HEADS, 2, share=Share(1, 2))
    own = sum(p.numel() for p in model.parameters())
    assert facts["memory"]["weights"] == pytest.approx(4 * own / 2)
    assert facts["memory"]["optimizer"] == pytest.approx(12 * own / 2)
    assert (facts["host_memory"]["load"], facts["host_memory"]["save"]) == (2 * own, 6 * own)
    alone = estimates.memory(run_config.load(file), facts["model"]["vocabulary"], 1)
    assert facts["memory"]["activations"] < 0.8 * alone["activations"]


def test_a_run_that_goes_on_is_asked_at_its_row(file: Path, headrace: Commands) -> None:
    """Its next step has the rows and shares of the row at which it begins, not those of row 0."""
    edits = ["steps=2", "batch_rows=[[0, 8], [16, 12]]", "objectives.causal.weight=[[0, 1], [16, 3]]"]
    headrace.ok("train", file, *edits)
    facts = json.loads(headrace.ok("check", file, *edits, "--json"))
    assert (facts["run"]["step"], facts["run"]["complete"]) == (2, True)
    assert (facts["step"]["rows"], facts["objectives"][0]["share"]) == (12, 0.75)
    new = report(run_config.load(file, [*edits, "run.name=new"]), 1)
    assert (new["step"]["rows"], new["objectives"][0]["share"]) == (8, 0.5)


def test_blocks_of_appended_shards_are_those_that_the_stream_opens(file: Path, corpora: Corpora) -> None:
    """They bring their own held-out units, so the figures depend on where they were appended."""
    config, tokenizer = run_config.load(file), corpora.tokenizer()
    opened = open_corpora(config)
    plan = make_plan(stream_settings(config, opened, tokenizer.hash))
    part, units = plan.corpora[0], opened["code"].index.units
    (last,) = part.eras
    first = replace(last, units=len(units) // 3, blocks=1, fingerprint="")
    part = replace(part, eras=(first, replace(last, slot=1)))
    grown = replace(plan, corpora=(part, *plan.corpora[1:]))
    blocks = Opener(PlanSegments(History(((0, grown),))), opened, tokenizer).blocks["code"]
    sample = CheckReport(text_bytes=3, tokens=1)
    facts = estimates.corpus(grown, part, opened["code"], sample, {"rows": 100})
    assert facts["blocks"] == len(blocks)
    single = [opened["code"].text_bytes_of(unit)[n] for unit, some in part.held_out_documents for n in some]
    assert facts["held_out_bytes"] == units["text_bytes"][blocks.held_out].sum() + sum(single)


def test_estimated_tokens_and_padding_are_near_the_truth(file: Path, corpora: Corpora) -> None:
    facts = report(run_config.load(file), 1)
    tokenizer = corpora.tokenizer()
    prose = corpora.open("prose")
    texts = [s.text for unit in range(len(prose)) for s in prose.read_unit(unit) if s.text is not None]
    tokens = sum(len(ids) for ids in tokenizer.encode_documents(texts))
    assert facts["corpora"][1]["tokens"] == pytest.approx(tokens, rel=0.1)
    assert 0.001 < facts["corpora"][1]["padding"] < 0.02


def test_blank_rows_are_counted_as_the_ranks_will_have_them(file: Path) -> None:
    facts = report(run_config.load(file), 5)
    # Eight rows over five ranks: one micro-batch of 4 for each, however few of its rows are real.
    assert facts["step"]["blank_rows"] == 5 * 4 - 8
    assert "blank rows" in facts["warnings"][0]


def test_processes_that_share_rows_are_counted_as_one(file: Path) -> None:
    """Six processes in groups of two: as three that have whole rows, but for what layers keep."""
    plain = report(run_config.load(file), 3)
    for edits in (["layout.sequence=2"], ["layout.pipeline=2"]):
        facts = report(run_config.load(file, edits), 6)
        assert (facts["step"]["processes"], facts["step"]["data_ranks"]) == (6, 3)
        for figure in ("micro_batches", "blank_rows"):
            assert facts["step"][figure] == plain["step"][figure]
        assert facts["open_blocks"] == plain["open_blocks"]
        assert "do not divide into 3 data-parallel ranks × micro-batches of 4" in facts["warnings"][0]
    cut = report(run_config.load(file, ["layout.sequence=2"]), 6)
    assert cut["memory"]["activations"] == plain["memory"]["activations"] / 2


def test_too_little_memory_for_the_blocks_in_use_is_told(
    file: Path, text: TrainingText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block for each stream that the lanes of a process follow."""
    small = report(run_config.load(file, ["data.memory_mib=1", "data.block_bytes=400000"]), 1)
    assert small["open_blocks"]["number"] == 2
    assert 1 << 20 < small["open_blocks"]["bytes"] < 6 << 20
    (line,) = small["warnings"]
    shards = ("code", text.code), ("prose", text.prose)
    assert line.startswith("data.memory_mib: a process draws from 2 blocks at a time; they may hold ")
    monkeypatch.setattr("data.plan.corpus_mix.BLOCKS_A_STREAM", 16)
    many = ["data.block_bytes=2000", "lanes=12", *(f"data.corpora.{c}.shards={s}" for c, s in shards)]
    fine = [report(run_config.load(file, many), processes) for processes in (1, 6)]
    streams = [corpus["streams"] for corpus in fine[0]["corpora"]]
    assert streams[0] > 1
    for facts, processes in zip(fine, (1, 6), strict=True):
        followed = [{lane % count for lane in range(12) if lane % processes == 0} for count in streams]
        assert facts["open_blocks"]["number"] == sum(map(len, followed))
        assert not any("memory_mib" in warning for warning in facts["warnings"])


def test_an_offloaded_optimizer_is_counted_on_the_host(file: Path, headrace: Commands) -> None:
    edits = ["layout.precision=bf16", "layout.zero=1"]
    plain, offloaded = (
        report(run_config.load(file, [*edits, f"layout.offload={where}"]), 4)
        for where in ("none", "optimizer")
    )
    count = plain["model"]["parameters"]
    assert (plain["memory"]["host"], plain["memory"]["optimizer"]) == (0.0, 12.0 * count / 4)
    # Master, moments and gradient 16 bytes, the new weight 2; and a buffer of the largest parameter.
    passing = plain["host_memory"]["start"] / 2
    assert offloaded["memory"]["host"] == pytest.approx(18.0 * count / 4 + passing)
    assert offloaded["memory"]["optimizer"] == 0.0
    assert "of the host" not in headrace.ok("check", file)
    (line,) = (
        line
        for line in headrace.ok("check", file, *edits, "layout.offload=optimizer").splitlines()
        if line.startswith("memory ")
    )
    assert "optimizer 0 B" in line
    assert line.endswith(": the optimizer")


def test_an_average_of_the_weights_is_counted_where_it_lies(file: Path) -> None:
    """Four bytes a parameter: beside the optimizer's state, wherever that is, in saves and on the disk."""
    edits = ["layout.zero=2", "layout.precision=bf16", "checkpoint.keep_every=20"]
    for where in ("none", "optimizer"):
        plain, averaged = (
            report(run_config.load(file, [*edits, f"layout.offload={where}", *more]), 4)
            for more in ([], ["ema.decay=0.999"])
        )
        count = plain["model"]["parameters"]
        grown = {
            key: averaged["memory"][key] - size
            for key, size in plain["memory"].items()
            if averaged["memory"][key] != size and key != "total"
        }
        assert grown == {"optimizer" if where == "none" else "host": pytest.approx(4 * count / 4)}
        assert averaged["host_memory"]["save"] - plain["host_memory"]["save"] == count
        assert averaged["checkpoints"]["bytes"] * 3 == plain["checkpoints"]["bytes"] * 4


def test_the_command_needs_no_torch_and_prints_both_ways(file: Path) -> None:
    script = (
        "import sys; sys.argv = ['headrace', 'check', *sys.argv[1:]]\n"
        "from launcher.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    run = [sys.executable, "-c", script, str(file)]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "1,024 positions, on 1 process in 2 micro-batches each" in shown
    assert "1,520 rows" in shown
    assert "prose" in shown
    assert "(4 bytes a parameter), saves" in shown
    facts = json.loads(subprocess.run([*run, "--json"], capture_output=True, text=True, check=True).stdout)
    assert facts == report(run_config.load(file), 1) | {"checkpoints": facts["checkpoints"]}


def test_a_run_with_another_config_is_refused_before_torch_is_imported(file: Path) -> None:
    start(run_config.load(file))
    append(RunFolder(run_config.load(file).path).plan, "{}")  # what makes it a run that has begun
    script = (
        "import sys; sys.argv = ['headrace', 'train', *sys.argv[1:]]\n"
        "from launcher.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    for processes in ("1", "2"):
        run = [sys.executable, "-c", script, str(file), "steps=9", "--processes", processes]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "this run exists with another config (steps: 100, now 9). Begin a new run" in done.stderr


def test_what_would_stop_the_run_stops_the_check(file: Path, tmp_path: Path) -> None:
    for override, expected in [
        ("tokenizer.model=none.model", "tokenizer.model: no file"),
        ("data.corpora.code.shards=none-*.tar", "none-*.tar"),
    ]:
        with pytest.raises(run_config.BadInput) as caught:
            report(run_config.load(file, [override]), 1)
        assert expected in str(caught.value)


def test_the_stream_is_asked_for_as_the_config_says(file: Path) -> None:
    config = run_config.load(file, ["data.corpora.code.quarantine=[a, b]", "max_sequence_length=256"])
    settings = stream_settings(config, open_corpora(config), "hash")
    assert list(settings.quarantine) == [("code", "a"), ("code", "b")]
    assert (settings.length, settings.max_length, settings.block_bytes) == (128, 256, None)
    assert settings.corpora["code"].weight.at(0) == 3


def test_a_start_does_not_look_through_a_large_corpus_for_documents_to_leave_out(file: Path) -> None:
    config = run_config.load(file, ["data.corpora.code.quarantine=[a, b]"])
    (line,) = refuse_unknown(config, open_corpora(config), most=1000)
    assert line.startswith(
        "data.corpora.code.quarantine: whether these documents exist was not looked up in "
    )
    assert "headrace check" in line
    with pytest.raises(BadInput, match=r"has the key 'a' \(and 1 more\)"):
        refuse_unknown(config, open_corpora(config))
    assert refuse_unknown(config, {}, before=config) == []


def test_an_objective_that_cannot_get_its_share_is_named(file: Path, tmp_path: Path) -> None:
    """Of documents of one token next-sentence prediction gets none; of one alone its true pairs."""
    edits = ["objectives.causal.weight=3", "objectives.nsp.weight=1", "data.corpora.prose.weight=0.001"]
    for name, texts, share in (("single", ["a"] * 500, 0.0), ("long", ["a mill and a wheel " * 9000], 0.1)):
        shards = pack_texts(tmp_path, name, texts).shards[0]
        more = [f"data.corpora.code={{shards: {shards}, weight: 1}}"]
        facts = report(run_config.load(file, [*edits, *more]), 1)
        found = {part["name"]: part["measured"] for part in facts["objectives"]}
        assert found["nsp"] == pytest.approx(share, abs=0.02)
        said = [line for line in facts["warnings"] if line.startswith("objectives.")]
        assert len(said) == 1
        assert f"nsp: gets about {found['nsp']:.1%} of the text, not 20.0%" in said[0]


def test_the_token_cache_is_foretold(file: Path, headrace: Commands, tmp_path: Path) -> None:
    """Near what one then takes; with what would make it useless."""
    assert report(run_config.load(file), 1)["token_cache"] is None
    folder = tmp_path / "tokens"
    cached = (f"data.token_cache.folder={folder}", "data.corpora.code.held_out=0")
    config = run_config.load(file, cached)
    facts = report(config, 1)["token_cache"]
    tokenizer, corpora = Tokenizer.load(config.tokenizer.model), open_corpora(config)
    history = History(((0, make_plan(stream_settings(config, corpora, tokenizer.hash))),))
    opener = Opener(PlanSegments(history), corpora, tokenizer, TokenCache(str(folder), 1.0, print))
    for name, blocks in opener.blocks.items():
        for slot in range(len(blocks)):
            opener.open(name, slot, [(0, 0)])
    assert facts["needed"] == pytest.approx(sum(path.stat().st_size for path in folder.iterdir()), rel=0.05)
    assert "of encoded text, at most 64.0 GiB are kept in" in headrace.ok("check", file, *cached)
    assert "warning: data.token_cache" not in headrace.ok("check", file, *cached, "data.token_cache.gib=1e6")
    for change, told in [
        ("data.token_cache.gib=0.0001", "gib: 104.9 KiB are kept of the"),
        ("data.token_cache.folder=/proc/tokens", "folder: cannot be written: /proc/tokens: "),
        (f"data.token_cache.folder={'x' * 300}", f"folder: cannot be written: {ROOT}/{'x' * 300}: File name"),
    ]:
        assert f"warning: data.token_cache.{told}" in headrace.ok("check", file, *cached, change)
    assert "gib: " in headrace.refused("check", file, *cached, "data.token_cache.gib=0")
    assert "none is named" in headrace.refused("check", file, "data.token_cache.gib=3")
    assert "folder: " in headrace.refused("check", file, "data.token_cache.folder=s3://bucket/tokens")
