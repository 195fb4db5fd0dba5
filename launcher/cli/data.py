"""`headrace data …`: from raw text to shards and their index, and back from a row to the documents in it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.access.patience import MINUTES, Patience
from data.errors import BadInput
from data.shards.walk import Walk
from launcher import output
from launcher.cli.options import AsJson, ConfigFile, Overrides, PatienceMinutes, RunPath
from launcher.cli.system_errors import require_working_folder

if TYPE_CHECKING:
    from data.prepare.build_index import IndexReport
    from data.prepare.pack import PackReport
    from data.shards.index import Index

data = typer.Typer(help="Pack, index and verify shards; show and trace rows.", no_args_is_help=True)

Workers = Annotated[
    int, typer.Option("--workers", "-w", min=1, help="Processes at work, four a core at most.")
]
MemoryMib = Annotated[
    int | None,
    typer.Option("--memory-mib", min=16, help="About what is held of texts, however long (default 256)."),
]
UnitKib = Annotated[
    int | None,
    typer.Option(
        "--unit-kib",
        min=16,
        max=1024,
        help="Text a unit: at most a quarter of max_sequence_length (default 64; from 256 GiB on 128, from "
        "512 GiB on 256).",
    ),
]
TextField = Annotated[
    str | None, typer.Option("--text-field", help="For .json members: the field that holds the text.")
]
TextMember = Annotated[
    str | None,
    typer.Option("--text-member", help="The extension of the one member that is read, such as en.txt."),
]
Step = Annotated[int, typer.Option("--step", min=1, help="The first step of a run is 1.")]
Row = Annotated[int | None, typer.Option("--row", min=0, help="Only this row of the step, from 0.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(data, name="data")


PackPart = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Pack one of N parts, I from 1 on: for a job array."),
]
NoMeta = Annotated[
    bool, typer.Option("--no-meta", help="Without the .json beside each text that says whence it came.")
]


@data.command()
def pack(
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="PREFIX", help="Writes PREFIX-000000.tar … and PREFIX.index."),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT…",
            help="Files, folders, globs: .txt .md .py .jsonl .ndjson .json, each [.gz|.zst]; .parquet",
        ),
    ] = None,
    builtin: Annotated[
        str | None, typer.Option("--builtin", help="Text that every machine has: code or prose.")
    ] = None,
    field: Annotated[str, typer.Option("--field", help="Where the text is in .jsonl and .parquet.")] = "text",
    zstd: Annotated[bool, typer.Option("--zstd", help="Write .tar.zst.")] = False,
    shard_mib: Annotated[
        int, typer.Option("--shard-mib", min=1, help="A shard is closed beyond this.")
    ] = 256,
    part: PackPart = None,
    no_meta: NoMeta = False,
    workers: Workers = 1,
    memory_mib: MemoryMib = None,
    unit_kib: UnitKib = None,
) -> None:
    """Pack text into tar shards with an index. Deterministic; never overwrites.

    \b
    Examples:
      headrace data pack books/ notes/*.md news.jsonl.zst --field text --out shards/mine
      headrace data pack --builtin code --out work/code
      headrace data pack crawl/*.jsonl --part 3/128 --workers 8 --out shards/crawl
    """
    require_working_folder()
    from data.prepare.pack import pack as run
    from data.prepare.parallel import MEMORY_MIB
    from data.sources.pieces import share_of

    sources = [*(inputs or []), *([f"builtin:{builtin}"] if builtin else [])]
    if not sources:
        raise BadInput("data pack: expected files or folders to pack, or --builtin code|prose")
    with output.progress(f"packing {out}") as report:
        done = run(
            sources,
            out,
            field=field,
            zstd=zstd,
            shard_bytes=shard_mib << 20,
            meta=not no_meta,
            share=share_of(part),
            workers=workers,
            memory_mib=memory_mib or MEMORY_MIB,
            unit_text=unit_kib and unit_kib << 10,
            progress=report,
        )
    _say_pack(done, "read" if part is None else "shared by the parts")


def _say_pack(done: "PackReport", read: str) -> None:
    """What was packed; read: what became of the files."""
    shards, units = output.counted(len(done.shards), "shard"), output.counted(done.units, "unit")
    output.say(
        f"{output.counted(done.samples, 'document')}, {output.size(done.text_bytes)} of text, in "
        f"{shards} with {units} of about {done.unit_text >> 10} KiB: {done.index}"
    )
    if done.walk is not None:
        _say_walk(done.walk, "file", read)
    _say(done.balance.lines("document", "packed"))


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        output.say(line)


def _say_walk(walk: Walk, thing: str, used: str) -> None:
    """The account of what the names meant, and the folders that were not entered."""
    _say(walk.balance.lines(thing, used))
    _say([f"  folders not entered: {line}" for line in walk.not_entered.reasons()])


@data.command()
def index(
    shards: Annotated[
        list[str], typer.Argument(metavar="SHARD…", help="Paths, globs or URLs of tar shards.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="NAME.index", help="The index to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Join the indexes of parts (of pack --part) instead.")
    ] = False,
    text_field: TextField = None,
    text_member: TextMember = None,
    workers: Workers = 1,
    memory_mib: MemoryMib = None,
    unit_kib: UnitKib = None,
    patience: PatienceMinutes = MINUTES,
) -> None:
    """Index shards of other people's making, in place.

    \b
    Examples:
      headrace data index 'shards/news-*.tar' --out shards/news.index
      headrace data index 's3://bucket/c4-{000..099}.tar.zst' --out c4.index --text-field text
      headrace data index --merge shards/crawl-*of128.index --out shards/crawl.index
    """
    from data.prepare.build_index import build_index
    from data.prepare.merge_indexes import merge_indexes
    from data.prepare.parallel import MEMORY_MIB
    from data.shards.samples import Reading

    reading = Reading(text_field, text_member)
    if merge:
        if reading != Reading():
            raise BadInput("--merge: the indexes say how their shards are read; leave --text-field away")
        if unit_kib:
            raise BadInput("--merge: the indexes say how large their units are; leave --unit-kib away")
        _say_index(merge_indexes(shards, out), "")
        return
    with output.progress(f"indexing {out}") as report:
        built = build_index(
            shards,
            out,
            progress=report,
            reading=reading,
            workers=workers,
            memory_mib=memory_mib or MEMORY_MIB,
            unit_text=unit_kib and unit_kib << 10,
            patience=Patience(patience, setting="--patience"),
        )
    _say_index(built.index, f" ({built.read} read now)", built)


def _say_index(made: "Index", read: str, built: "IndexReport | None" = None) -> None:
    """What an index has in it; built: how it came about, where shards were read."""
    balance = made.balance
    shards, units = output.counted(len(made.shards), "shard"), output.counted(len(made), "unit")
    output.say(
        f"{output.counted(balance.used, 'document')}, {output.size(made.text_bytes)} of text, in "
        f"{shards}{read} with {units} of about {made.unit_text >> 10} KiB: {made.path}"
    )
    if built is not None:
        _say_walk(built.walk, "shard", "used")
        _say(built.notes)
    _say(balance.lines("member", "read as text"))


@data.command()
def verify(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="The index of the corpus.")],
    shards: Annotated[
        list[str] | None,
        typer.Argument(metavar="SHARD…", help="Its shards, where they lie elsewhere than the index says."),
    ] = None,
    json: AsJson = False,
    workers: Workers = 1,
    patience: PatienceMinutes = MINUTES,
) -> None:
    """Read every unit; print what is wrong and where.

    Exit code 2 if training could not read all of it.

    \b
    Examples:
      headrace data verify shards/mine.index
      headrace data verify news.index 's3://bucket/news-*.tar' --json
    """
    from data.prepare.verify import verify as run

    with output.progress("verifying") as report:
        waiting = Patience(patience, setting="--patience")
        done = run(index, shards, workers=workers, patience=waiting, progress=report)
    rows = [finding._asdict() for finding in done.findings]
    if json:
        output.say_json(rows)
    elif rows:
        output.table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        output.say(f"{done.samples:,} documents in {done.units:,} units are as they were indexed")
    if not json:
        _say(done.balance.lines("member", "read as text"))
    if done.damaged:
        raise typer.Exit(2)


@data.command()
def show(
    config: ConfigFile, step: Step, overrides: Overrides = None, row: Row = None, json: AsJson = False
) -> None:
    """Print the rows that a step would train on.

    \b
    Examples:
      headrace data show configs/first.yaml --step 1 --row 0
      headrace data show configs/first.yaml --step 7 --json | jq .pieces
    """
    from launcher.config import run_config
    from launcher.reporting.rows import show as run

    if (Path(config) / "config.yaml").is_file():
        raise BadInput(
            f"{config}: is a run, expected a config; what the run trained on: "
            f"headrace data trace {shlex.quote(config)} --step {step}"
        )
    run(run_config.load(config, overrides or []), step=step, row=row, json=json)


@data.command()
def trace(run: RunPath, step: Step, row: Row = None, json: AsJson = False) -> None:
    """Print the rows of a past step and their documents.

    \b
    Example:
      headrace data trace runs/first --step 250 --row 3
    """
    from launcher.reporting.rows import trace as run_trace
    from launcher.runs.run_folder import open_run

    if Path(run).is_file():
        raise BadInput(
            f"{run}: is a file, expected the folder of a run; what a config would train on: "
            f"headrace data show {shlex.quote(run)} --step {step}"
        )
    run_trace(open_run(run), step=step, row=row, json=json)


@data.command()
def seen(
    run: RunPath,
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Documents: [CORPUS/][SHARD/]KEY.")],
    json: AsJson = False,
) -> None:
    """Print the steps at which a run used a document.

    \b
    Example:
      headrace data seen runs/first code/000000017
    """
    from launcher.reporting.rows import seen as run_seen
    from launcher.runs.run_folder import open_run

    run_seen(open_run(run), keys=keys, json=json)
