"""The sections of a config that no other part owns: the run, its corpora, checkpoints, evaluation, tracking.

`model:` belongs to model/config.py, `layout:` to launcher/engine/layout.py, `optimizer:` to
launcher/engine/optimizer.py, `data.cache:` to data/access/cache.py, `data.token_cache:` to
data/stream/token_cache.py, `data.on_bad:` to data/plan/plan.py, each objective to its own file;
launcher/config/run_config.py assembles them. A section is frozen, refuses keys that it does not know, and
converts nothing but what stands here: a path becomes absolute, so that a run can be resumed from another
folder, and a single shard may be written without brackets.
"""

import json
import os
import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    model_validator,
)

from data.access.cache import CacheOptions
from data.access.patience import MINUTES, MOST_MINUTES
from data.plan.corpus_mix import STREAMS
from data.plan.plan import OnBad
from data.stream.token_cache import TokenCacheOptions
from launcher.config.credentials import refuse_secret
from launcher.config.timetable import PlacedRows
from model.config import require_temperature
from objectives.quantity import Quantity, Tokens, quantity, steps_or_tokens, written
from objectives.schedule import MOST, Schedule, parse_places


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )


def absolute(path: str) -> str:
    """A local path made absolute; URLs and pipe: commands stay as they are."""
    if "\0" in path:
        raise ValueError("expected a path without a zero character in it")
    if "://" in path or path.startswith("pipe:"):
        return path
    if variable := re.search(r"\$\{?[A-Za-z_]\w*", path):
        raise ValueError(
            f"{variable[0]} would be taken as it stands: variables are not looked up here; write the path "
            "out, or give it on the command line, where the shell does it"
        )
    expanded = os.path.expanduser(path)
    first = path.split("/")[0]
    if path.startswith("~") and expanded == path and not os.path.lexists(first):
        raise ValueError(f"{first} stands for no folder here: that user has no home; write it out")
    return os.path.abspath(expanded)


def _shards(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items or not all(isinstance(i, str) and i for i in items):
        raise ValueError("expected a list of globs, paths or URLs of tar shards")
    for item in items:
        refuse_secret(item)
    return tuple(absolute(item) for item in items)


def _weight(value: Any) -> Schedule:
    return value if isinstance(value, Schedule) else Schedule.parse(value)


def _keys(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(item, int | float) for item in value):
        raise ValueError("expected keys as text: one that is a number needs quotes, such as ['000000300']")
    return tuple(value) if isinstance(value, list) else value


def _placed(options: Any) -> Any:
    """The options of a cache, its folder absolute."""
    try:
        return replace(options, folder=absolute(options.folder)) if options.folder else options
    except ValueError as error:
        raise ValueError(f"folder: {error}") from None


def _batch_rows(value: Any) -> PlacedRows:
    """A number of rows, or steps of it over the run: [[0, 64], [100000, 128]], [[0, 64], [1B tokens, 96]]."""

    def whole(x: Any, least: int) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and x >= least

    if whole(value, 1) and value <= MOST_ROWS:
        return int(value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"expected a whole number from 1 to {MOST_ROWS}, or [[row, rows], …], got {value!r}")
    for pair in value:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not (whole(pair[0], 0) or isinstance(pair[0], str))
            or not whole(pair[1], 1)
            or pair[1] > MOST_ROWS
        ):
            raise ValueError(f"expected pairs [row, rows from then on], 1 to {MOST_ROWS}, got {pair!r}")
    if value[0][0] != 0:
        raise ValueError(f"expected the first pair to begin at row 0, got {value[0][0]}")
    places, in_tokens = parse_places([place for place, _ in value])
    return tuple((Tokens(at) if in_tokens and at else at, rows) for at, (_, rows) in zip(places, value))


def _batch_rows_written(value: PlacedRows) -> int | list[list[int | str]]:
    return value if isinstance(value, int) else [[written(place), rows] for place, rows in value]


def _interval(value: Any) -> int | Tokens | None:
    return None if value is None else steps_or_tokens(value)


def _interval_written(value: int | Tokens | None) -> int | str | None:
    return None if value is None else written(value)


def _intervals(value: Any) -> tuple[Quantity, ...]:
    """One interval, or several of different units."""
    items = value if isinstance(value, list | tuple) else [value]
    found = tuple(quantity(item, minutes=True) for item in items)
    if not found or len({type(one) for one in found}) < len(found):
        raise ValueError(
            "expected an interval, or a list of one in steps, one in tokens and one in minutes, such as "
            f"[1000, 30 minutes], got {value!r}"
        )
    return found


def _intervals_written(value: tuple[Quantity, ...]) -> int | str | list[int | str]:
    return written(value[0]) if len(value) == 1 else [written(one) for one in value]


def _padding(value: Any) -> Any:
    if value == "never" or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
    ):
        return value
    raise ValueError(f"expected a share from 0 to below 1, or never, got {json.dumps(value)}")


MOST_ROWS = 2**24
"""Of a step: its rows are told apart by an array."""
LocalPath = Annotated[str, StringConstraints(min_length=1), AfterValidator(absolute)]
BatchRows = Annotated[PlacedRows, PlainValidator(_batch_rows), PlainSerializer(_batch_rows_written)]
Interval = Annotated[int | Tokens | None, PlainValidator(_interval), PlainSerializer(_interval_written)]
"""So many steps, or tokens; none."""
Intervals = Annotated[tuple[Quantity, ...], PlainValidator(_intervals), PlainSerializer(_intervals_written)]
Weight = Annotated[Schedule, PlainValidator(_weight), PlainSerializer(Schedule.describe, return_type=Any)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Run(Section):
    """Where the run lives: FOLDER/NAME."""

    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    folder: LocalPath = "runs"


class TokenizerFile(Section):
    """The SentencePiece model; the run keeps a copy of it."""

    model: LocalPath
    lossy: Literal["refuse", "allow"] = "refuse"
    """What becomes of a start where more than a thousandth of the tokens of a corpus is unknown, or more than
    a hundredth of its documents does not come back from them as it was."""


class TextConfig(Section):
    """Text in shards: where they lie and what is read of them."""

    shards: Annotated[tuple[str, ...], BeforeValidator(_shards)]
    """Globs, paths or URLs of its tar shards."""
    index: LocalPath | None = None
    """Its unit index; by default NAME.index beside the shards."""
    text_field: str | None = None
    """For shards with .json members: the field that holds the text."""
    text_member: str | None = None
    """The extension of the one member of each sample that is read, such as en.txt."""
    quarantine: Annotated[tuple[str, ...], BeforeValidator(_keys)] = ()
    """Documents to skip from now on: by KEY, or SHARD/KEY where several have the key."""


class CorpusConfig(TextConfig):
    """One corpus that is trained on."""

    weight: Weight = Schedule.parse(1)
    """Its share of the rows, relative to the other corpora; 0 drops it and keeps its place. Or [[row,
    weight], …], ['1B tokens', weight], …: between these rows the shares go straight from one to the next."""
    coefficient: Annotated[float, Field(ge=0, le=MOST)] = 1.0
    """What its losses are multiplied by; what the loss of a step is divided by stays the same."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The share of its text that is set aside for evaluation and never trained on."""


class DataConfig(Section):
    """The corpora and how they are read."""

    corpora: Annotated[dict[Name, CorpusConfig], Field(min_length=1, max_length=127)]
    block_bytes: Annotated[int, Field(ge=1)] | None = None
    """Bytes of text that are packed together; by default 1024 times max_sequence_length; of rows above
    16384 positions at most 16 MiB, or 64 times max_sequence_length."""
    streams: Annotated[int, Field(ge=1)] = STREAMS
    """The most streams of a corpus: each holds an open block, in every process that follows it."""
    padding: Annotated[Literal["never"] | float, BeforeValidator(_padding)] = 0.01
    """The share of the positions packed together, besides one row, that may be padding: documents are cut
    where it needs that; with `never` only where they are longer than a row."""
    cache: Annotated[CacheOptions, AfterValidator(_placed)] = CacheOptions()
    token_cache: Annotated[TokenCacheOptions, AfterValidator(_placed)] = TokenCacheOptions()
    patience: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = MINUTES
    """Minutes for which a shard that cannot be reached is waited for, before the run is saved and leaves."""
    on_bad: OnBad = OnBad()
    threads: Annotated[int, Field(ge=0, le=256)] = 1
    """Threads a process that open blocks ahead; 0: the step waits for each block."""
    memory_mib: Annotated[int, Field(ge=1)] = 512
    """Bound on the open blocks of one process."""


class CheckpointConfig(Section):
    """When weights and optimizer are saved, and which saves are kept."""

    every: Intervals = (1000,)
    """Steps between saves, or tokens, or minutes since the last one: one of these or [1000, 30 minutes]; the
    last step is always saved."""
    keep: Annotated[int, Field(ge=1)] = 2
    """The newest n stay whole."""
    keep_every: Interval = None
    """Those whose step is a multiple of this, or passes one of so many tokens, stay for ever."""
    weights_only_after: Annotated[int, Field(ge=1)] | None = None
    """Of those that stay for ever, all but the newest n lose their optimizer moments."""


class ReplicaConfig(Section):
    """How often copies of the same weights and states on several processes are compared."""

    every: Annotated[int, Field(ge=0)] = 500
    """Steps between comparisons, beside those after each load and before each save; 0: never at all."""


class Samples(Section):
    """Texts generated at each evaluation."""

    prompts: tuple[str, ...] = ()
    tokens: Annotated[int, Field(ge=1)] = 64
    temperature: float = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    @model_validator(mode="after")
    def _possible(self) -> "Samples":
        require_temperature(self.temperature)
        return self


class EvalConfig(Section):
    """Losses on text that is not trained on, the same rows on any number of processes."""

    every: Interval = None
    """Steps (or tokens) between evaluations, with one before the first and one after the last step; none:
    never."""
    bytes: Annotated[int, Field(ge=1)] = 262144
    """About so much text of each corpus, held out or of its own."""
    corpora: dict[Name, TextConfig] = {}
    """Shards that are never trained on, such as a public validation set, beside what corpora hold out."""
    samples: Samples = Samples()


class WandbConfig(Section):
    """Weights & Biases, fed from metrics.jsonl beside the run. The key comes from its own environment."""

    mode: Literal["online", "offline", "disabled"] = "offline"
    """`online` without a key is offline."""
    project: Annotated[str, StringConstraints(min_length=1)] = "headrace"
    entity: str | None = None


class LogConfig(Section):
    """What is printed. metrics.jsonl has every step, whatever stands here."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between lines where the output is no terminal."""
