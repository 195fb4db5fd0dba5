"""The house rules: which package may import which, through which door, and where three libraries live.

Every import counts, lazy and type-only ones too: the sources are parsed, not run. A new package gets a line
in MAY_IMPORT; a name that other packages are to use gets one in DOORS. Each rule is also seen to fail here,
on a planted import.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from objectives.registry import OBJECTIVES
from tests.support.sources import ROOT, source_files

MAY_IMPORT: dict[str, set[str]] = {
    "objectives": set(),
    "model": set(),
    # data/, from the ground up
    "data.errors": set(),
    "data.balance": set(),
    "data.durable": {"data.errors"},
    "data.access": {"data.errors", "data.durable"},
    "data.shards": {"data.errors", "data.balance", "data.durable", "data.access"},
    "data.sources": {"data.errors", "data.durable", "data.access", "data.shards"},
    "data.prepare": {
        *("data.errors", "data.balance", "data.durable", "data.access", "data.shards", "data.sources"),
    },
    "data.plan": {"data.errors", "data.durable", "data.access", "data.shards", "objectives"},
    "data.tokenization": {
        *("data.errors", "data.durable", "data.access", "data.shards", "data.prepare", "objectives"),
    },
    "data.stream": {"data.errors", "data.access", "data.shards", "data.plan", "objectives"},
    "data.provenance": {
        *("data.errors", "data.durable", "data.shards", "data.plan", "data.stream", "objectives"),
    },
    # launcher/: each floor names the launcher packages below it that it may use; `data`, `model` and
    # `objectives` are open to all of them.
    "launcher.output": set(),
    "launcher.standard_streams": set(),
    "launcher.distributed": set(),
    "launcher.engine": {"launcher.distributed"},
    "launcher.checkpoint": {"launcher.engine", "launcher.distributed"},
    "launcher.config": {"launcher.engine"},
    "launcher.runs": {"launcher.checkpoint", "launcher.config"},
    "launcher.tracking": {"launcher.runs", "launcher.config", "launcher.distributed"},
    "launcher.doctor": {"launcher.distributed", "launcher.engine"},
    "launcher.preflight": {
        *("launcher.runs", "launcher.checkpoint", "launcher.engine", "launcher.config"),
    },
    "launcher.inference": {
        *("launcher.tracking", "launcher.runs", "launcher.checkpoint", "launcher.engine"),
        *("launcher.config", "launcher.distributed"),
    },
    "launcher.reporting": {"launcher.runs", "launcher.checkpoint", "launcher.config"},
    "launcher.training": {
        *("launcher.reporting", "launcher.inference", "launcher.preflight", "launcher.tracking"),
        *("launcher.runs", "launcher.config", "launcher.checkpoint", "launcher.engine"),
        "launcher.distributed",
    },
    "launcher.proving": {
        *("launcher.training", "launcher.inference", "launcher.runs", "launcher.config"),
        *("launcher.checkpoint", "launcher.engine", "launcher.distributed"),
    },
    "launcher.cli": {
        *("launcher.proving", "launcher.training", "launcher.reporting", "launcher.inference"),
        *("launcher.preflight", "launcher.doctor"),
        *("launcher.tracking", "launcher.runs", "launcher.config", "launcher.checkpoint"),
        "launcher.distributed",
    },
}
OPEN_TO_LAUNCHER = {"objectives", "model", "data", "launcher.output", "launcher.standard_streams"}

DOORS: dict[str, dict[str, str]] = {
    "data.access": {
        "cache": "CacheOptions Cache TooLarge default_folder",
        "compression": "packing_of unpack",
        "http": "Http",
        "http_login": "VARIABLE",
        "patience": "MINUTES MOST_MINUTES Patience",
        "transports": "Fsspec NoRanges Pipe Status Transport is_local place shown",
        "trouble": "PASSING_ERRNO ShardTrouble Transient of_local",
    },
    "data.shards": {
        "corpus": "Corpus LARGE ReadTrouble open_corpus",
        "find": "Located bytes_to_read find_documents full_name is_ambiguous is_named several",
        "index": "Index OldIndex Shard fingerprint write",
        "listed": "GoneShard identities identity match remedy",
        "parts": "PART parts whole_characters",
        "samples": "METADATA Reading Sample SampleExtent TextMember USUAL read_part read_text samples scan",
        "store": "Store expand find_shards unpacked_key",
        "tar": "is_closed members",
        "tar_fields": "BLOCK TarTrouble checksum_of padded",
        "text": "NotText WIDE decode is_wide mark_bytes unmarked",
        "units": "Size UNIT_TAR UNIT_TEXT UnitTable UnitTableBuilder runs unit_starts unit_text_for",
        "walk": "Found Walk below meant printable unreadable",
    },
    "data.sources": {
        "batch": "MOST Stretch TextBatch batches",
        "builtin": "*",
        "documents": "Document Limits find_files",
        "long_text": "LongText",
        "parquet": "row_groups",
        "pieces": "PIECE PackShare WHOLE inputs_id share_of sizes_of tasks",
        "read_files": "FileReader",
    },
    "data.prepare": {
        "build_index": "IndexReport build_index",
        "merge_indexes": "merge_indexes",
        "pack": "PackReport pack",
        "parallel": "MEMORY_MIB Progress",
        "verify": "recorded verify",
    },
    "data.plan": {
        "plan": "CorpusPlan History Normalise OnBad Plan Skip",
        "history_file": "append_skip read_history",
        "asked_rows": "LEAST_SHARE AskedRows",
        "corpus_mix": "STREAMS streams_for",
        "ownership": "Ownership",
        "make": "CorpusSettings StreamSettings make_plan usual_block_bytes",
        "positions": "Position START StreamPositions",
        "segments": "PlanSegment PlanSegments",
        "steps": "rows_of_step step_length step_of_row",
        "block_file": "blocks_of",
        "batch_rows": "BatchRows",
        "timeline": "RowRate Timeline",
        "blocks": "Blocks",
        "epochs": "BlockOrder",
    },
    "data.tokenization": {"tokenizer": "Tokenizer", "train": "train", "check": "CheckReport check"},
    "data.stream": {
        "loader": "Batch Loader RowShares blank_batches",
        "rows": "DTYPES Rows step_fingerprint",
        "held_out": "EvaluationText evaluation_rows held_out_text text_outside",
        "skipping": "Identity LeftOut SkipNotice",
        "mixing": "StepDraws vector_length",
        "streams": "Opening Streams",
        "block": "OpenBlock Opener",
        "packing": "write_rows",
        "prefetch": "Prefetcher",
        "reading": "Encoder UnitTrouble",
        "token_cache": "TokenCacheOptions token_cache",
    },
    "data.provenance": {
        "openings": "OpeningsLog merge_openings read_openings",
        "trace": "Part TracedSegment TracedRow Tracer Use walk",
    },
    "launcher.distributed": {
        "world": "World discover",
        "mesh": "Axis Degrees Mesh",
        "process_group": "connect device_of disconnect group_along",
        "host_reduce": "HostSums Pending",
        "collectives": "STILL ToldByOtherRank at_length beside found_by_all from_first gather ranks_named "
        "together",
        "local_launch": "die_with_parent launch",
        "respawn": "command",
        "stop_signals": "* StopRequest stop_request deliver end_at_once",
        "allocator": "keep_memory",
    },
    "launcher.engine": {
        "engine": "Engine",
        "interface": "Evaluation Judge StepResult",
        "forward": "PlainModel to_device",
        "layout": "LayoutConfig require_shares",
        "footprint": "footprint",
        "optimizer": "OptimizerConfig decay_steps lr_at",
        "stages": "stage_borders stage_costs",
        "sharded_state": "StateMap",
        "replicas": "Held Mismatch compare shared_labels",
        "cut": "Cut Runs cover_fault",
        "ema": "EmaConfig WeightAverage weight_average",
        "memory": "enough_memory memory_in_use",
        "host_memory": "host_memory_free",
        "compiler": "found require_compiler",
    },
    "launcher.config": {
        "run_config": "* Config",
        "require": "other_model require_files require_processes require_same_run",
        "messages": "expectation",
        "compare": "* changes of_another_run watched_as",
        "resolved": "as_json as_yaml resolve",
        "timetable": "Interval Timetable placed_in_rows row_finder",
        "yaml_reader": "Key dotted",
    },
    "launcher.checkpoint": {
        "average": "write_average",
        "catalog": "listing newest opened verify weights_at",
        "format": "Damaged",
        "read": "Request StoredCheckpoint",
        "load": "FoundDamaged load load_weights read_weights undamaged",
        "save": "Checkpoints",
        "share": "share",
        "retention": "Retention steps_in",
    },
    "launcher.runs": {
        "averaged": "average",
        "branch": "fork make",
        "beginning": "beginning not_compared on_record",
        "run_folder": "* Attempt RunFolder going_on open_run",
        "lineage": "first_line lineage merged newest steps",
        "eval_corpora": "at_key located open_all refuse_trained_on trained_on_before",
        "eval_rows": "require_same_rows rows_before rows_changed",
        "eval_text": "lines_of read_outside",
        "longer_rows": "longer_rows",
        "lr_change": "lr_change lr_change_from",
        "plan_history": "go_on keep left_out_before record_skip run_tokenizer timetable_of",
        "progress": "Progress",
        "quarantine": "refuse_unknown",
        "resume_point": "StartPoint start_point",
        "stream_settings": "OpenedCorpora open_corpora open_texts require_held_out require_same "
        "stream_settings",
        "trunk": "Trunk marked trunk_of",
        "versions": "versions",
        "writer_lock": "BEAT_SECONDS",
    },
    "launcher.tracking": {
        "records": "CorpusRecord DrawnRecord EvalCell EvalRecord ObjectiveRecord Record SampleRecord "
        "StepRecord",
        "tracker": "Tracker",
        "start": "tracking",
        "wandb_feed": "sync",
    },
    "launcher.doctor": {
        "doctor": "examine tell",
        "finding": "Finding",
        "package_names": "*",
    },
    "launcher.preflight": {
        "check": "report",
        "check_view": "show",
        "lossy": "require_spelling",
        "prompts": "require_room",
        "edits": "refuse_edits",
    },
    "launcher.inference": {
        "trained_model": "plain_model",
        "held_out": "HeldOut",
        "samples": "Sampler no_room",
        "evaluate": "evaluate",
        "generate": "generate whole",
    },
    "launcher.reporting": {
        "status": "show state",
        "summary": "show_summary",
        "next_command": "further_commands resume_command",
        "rows": "seen show trace",
        "metrics_table": "evaluations_table metrics_table",
    },
    "launcher.training": {
        "train": "resume run_rank train",
        "loop": "End fit",
        "session": "Session",
    },
    "launcher.proving": {"prove": "prove"},
    "launcher.cli": {},  # its door is the `headrace` command of pyproject.toml; no package imports it
}
"""Package → module → names that other packages may import; `*`: the module itself."""

HOMES = {
    "deepspeed": ("launcher/engine/deepspeed/",),
    "sentencepiece.sentencepiece_model_pb2": ("data/tokenization/model_proto.py",),
    "wandb": ("launcher/tracking/wandb_feed.py",),
    "SLURM_": ("launcher/distributed/world.py", "launcher/cluster/"),
}
"""Where a library is imported, or the environment variables of that prefix are named, and nowhere else."""

MODULES = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in source_files()}


@dataclass(frozen=True)
class Import:
    """`from module import name`; name None: `import module`."""

    file: str
    line: int
    module: str
    name: str | None


def package_of(module: str) -> str:
    """launcher.runs.progress → launcher.runs; model.loss → model."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in ("launcher", "data") else parts[0]


def imports(file: str, source: str) -> Iterator[Import]:
    """All imports of a file, wherever they stand in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}:{node.lineno}: a relative import"
            assert not node.level, f"{file}:{node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = (inner, None) if inner in MODULES else (node.module, alias.name)
                yield Import(file, node.lineno, *found)


def wrong_arrows(file: str, source: str) -> list[str]:
    """Imports of packages that are not on the list of the file's package."""
    own = package_of(file.removesuffix(".py").replace("/", "."))
    allowed = MAY_IMPORT.get(own, set()) | (OPEN_TO_LAUNCHER if own.startswith("launcher") else set())
    found = []
    for one in imports(file, source):
        package = package_of(one.module)
        if package.split(".")[0] not in ("launcher", "model", "data", "objectives") or package == own:
            continue
        if package not in allowed and package.split(".")[0] not in allowed:
            found.append(f"{file}:{one.line}: {own} imports {package}")
    return found


def past_doors(file: str, source: str) -> list[str]:
    """Names of other packages that these do not hand out."""
    own = package_of(file.removesuffix(".py").replace("/", "."))
    found = []
    for one in imports(file, source):
        package = package_of(one.module)
        if package not in DOORS or package == own:
            continue
        module = one.module.removeprefix(f"{package}.")
        if (one.name or "*") not in DOORS[package].get(module, "").split():
            found.append(f"{file}:{one.line}: {one.module}.{one.name or '*'} is no door of {package}")
    return found


def away_from_home(file: str, source: str) -> list[str]:
    """Imports of what has a home, by name or as text for importlib, and Slurm's variables elsewhere than at
    home. Docstrings and help texts that speak of them are no use of them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            used = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            used = [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used = ["SLURM_"] if node.value.startswith("SLURM_") else []
        for name, places in HOMES.items():
            if any(f"{one}.".startswith(f"{name}.") for one in used) and not file.startswith(places):
                found.append(f"{file}:{node.lineno}: {name} lives in {' or '.join(places)}")
    return found


def read() -> Iterator[tuple[str, str]]:
    """(path in the repository, text) of every source file."""
    for path in source_files():
        yield path.relative_to(ROOT).as_posix(), path.read_text()


@pytest.mark.parametrize("rule", [wrong_arrows, past_doors, away_from_home])
def test_the_house_is_kept(rule) -> None:
    assert [line for file, source in read() for line in rule(file, source)] == []


@pytest.mark.parametrize(
    ("rule", "file", "planted"),
    [
        (wrong_arrows, "launcher/engine/forward.py", "from launcher.training.loop import fit"),
        (wrong_arrows, "launcher/runs/progress.py", "def f():\n    from launcher.tracking import start"),
        (wrong_arrows, "data/plan/steps.py", "from data.stream.loader import Loader"),
        (wrong_arrows, "model/loss.py", "import objectives.rng"),
        (wrong_arrows, "objectives/span.py", "from data.errors import BadInput"),
        (wrong_arrows, "data/stream/rows.py", "from launcher import output"),
        (past_doors, "launcher/training/loop.py", "from launcher.checkpoint.format import step_name"),
        (past_doors, "data/stream/block.py", "from data.shards.sparse import pax"),
        (past_doors, "launcher/cli/run.py", "from launcher.preflight import estimates"),
        (away_from_home, "launcher/engine/engine.py", "import deepspeed.runtime"),
        (away_from_home, "launcher/engine/engine.py", "importlib.import_module('deepspeed')"),
        (away_from_home, "launcher/tracking/tracker.py", "def f():\n    import wandb"),
        (
            away_from_home,
            "data/tokenization/train.py",
            "from sentencepiece.sentencepiece_model_pb2 import ModelProto",
        ),
        (away_from_home, "launcher/runs/run_folder.py", "os.environ['SLURM_JOB_ID']"),
    ],
)
def test_a_planted_wrong_import_is_found(rule, file: str, planted: str) -> None:
    assert rule(file, planted)


def test_each_class_has_a_name_of_its_own() -> None:
    """Private ones too: whoever searches for a name finds one thing."""
    names = [
        node.name
        for _, source in read()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    ]
    assert len(names) > 200
    assert [name for name in set(names) if names.count(name) > 1] == []


def test_no_package_imports_itself_in_a_circle() -> None:
    """Module by module, lazy imports included."""
    arrows = {
        file.removesuffix(".py").replace("/", "."): {one.module for one in imports(file, source)} & MODULES
        for file, source in read()
    }
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(arrows.get(module, ())):
                walk(target, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        walk(module, ())
    assert len(done) > 150


def test_doors_and_packages_exist() -> None:
    """The tables name nothing that is gone, and leave no package out."""
    packages = {package_of(module) for module in MODULES} - {"launcher", "data", "launcher.__init__"}
    assert {name for name in packages if not name.endswith("__init__")} == set(MAY_IMPORT)
    # One without doors would hand out everything. The two rooms that are one package each have none.
    folders = {name for name in MAY_IMPORT if (ROOT / name.replace(".", "/")).is_dir()}
    assert folders - {"objectives", "model"} == set(DOORS)
    for package, modules in DOORS.items():
        for module, names in modules.items():
            path = ROOT / package.replace(".", "/") / f"{module}.py"
            defined = {
                name
                for node in ast.parse(path.read_text()).body
                for name in (
                    [node.name]
                    if isinstance(node, ast.ClassDef | ast.FunctionDef)
                    else [target.id for target in node.targets if isinstance(target, ast.Name)]
                    if isinstance(node, ast.Assign)
                    else [node.target.id]
                    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
                    else []
                )
            }
            assert set(names.split()) - {"*"} <= defined, f"{path}: {set(names.split()) - defined}"


def test_no_arrow_and_no_door_stands_unused() -> None:
    """A table that allows more than is needed allows the next wrong import without a word."""
    arrows: set[tuple[str, str]] = set()
    doors: set[tuple[str, str]] = set()
    for file, source in read():
        own = package_of(file.removesuffix(".py").replace("/", "."))
        for one in imports(file, source):
            if (package := package_of(one.module)) != own:
                arrows.add((own, package))
                doors.add((one.module, one.name or "*"))
    assert {(own, package) for own, allowed in MAY_IMPORT.items() for package in allowed} - arrows == set()
    handed_out = {
        (f"{package}.{module}", name)
        for package, modules in DOORS.items()
        for module, names in modules.items()
        for name in names.split()
    }
    assert handed_out - doors == set()


def test_the_tables_are_written_from_the_ground_up() -> None:
    """So an arrow that points upward is seen where it is allowed, too."""
    lines = list(MAY_IMPORT)
    wrong = {name: MAY_IMPORT[name] - set(lines[:number]) for number, name in enumerate(lines)}
    assert {name: above for name, above in wrong.items() if above} == {}


def test_an_init_file_holds_one_docstring() -> None:
    """An import there would bring torch into `headrace --help`; the docstring names the doors."""
    files = [path for path in source_files() if path.name == "__init__.py"]
    assert len(files) > 15
    for path in files:
        (node,) = ast.parse(path.read_text()).body
        assert isinstance(node, ast.Expr), path
        assert isinstance(node.value, ast.Constant), path
        package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for module in DOORS.get(package, {}):
            assert f"`{module}" in str(node.value.value), f"{path}: says nothing of its door {module}"


def test_functions_files_and_folders_keep_their_size() -> None:
    """60 lines a function, about 300 a file, twenty files a folder: beyond that a reader looks for the second
    idea in it. The objectives' own files are one idea many times, however many they become: they do not
    count."""
    functions = {
        f"{file}:{node.lineno}: {node.name}": lines
        for file, source in read()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert functions == {}
    long = {str(path): lines for path in source_files() if (lines := path.read_text().count("\n")) > 320}
    assert long == {}
    folders = {path.parent for path in source_files()}
    objectives = {ROOT / f"{objective.__module__.replace('.', '/')}.py" for objective in OBJECTIVES}
    counts = {str(folder): len(set(folder.glob("*.py")) - objectives) for folder in folders}
    full = {folder: count for folder, count in counts.items() if count > 21}
    assert full == {}


def test_a_class_name_stands_once() -> None:
    """Public ones, in the whole project."""
    homes: dict[str, list[str]] = {}
    for file, source in read():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(file)
    assert len(homes) > 100
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
