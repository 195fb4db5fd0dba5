"""The config of a run: read, merged, checked, frozen.

    file ──▶ yaml_lines (values + the line of each key) ──▶ base merged under it ──▶ key=value over it
         ──▶ sections validated by the parts that own them ──▶ combinations refused in words ──▶ Config

Everything wrong is one BadInput line: 'first.yaml:12: model.heads: expected …, got …; did you mean …?'.
Nothing here looks at the world (files, GPUs, processes): `require_files` and `require_processes` do, and are
called by whoever starts something. After `load` a Config never changes; what a resume edits is a new Config.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from data.errors import BadInput
from data.plan.plan import Normalise
from launcher.config.messages import Locations, sentence
from launcher.config.sections import (
    BatchRows,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    LogConfig,
    Run,
    Section,
    TokenizerFile,
    WandbConfig,
)
from launcher.config.yaml_reader import Key, dotted, dump_yaml, parse_value, read
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from model.config import ModelConfig
from objectives.example_builder import SHORTEST
from objectives.mixture import Mixture
from objectives.noise import LONGEST

NAMED = (("data", "corpora"), ("objectives",))
"""Sections whose keys are names: over a base or an override, `name: null` takes one out."""

LEAST_SHARE = 1e-6
"""Of a corpus: the stream looks for the next row of each, which at 10⁻⁹ is 10⁹ rows away."""


def _mixture(value: Any) -> Mixture:
    if not isinstance(value, Mapping):
        raise ValueError("expected a section with one key an objective, such as 'causal: {weight: 1}'")
    return Mixture.parse(value)


class Config(Section):
    """Everything that a run is told (DESIGN §8)."""

    run: Run
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    steps: Annotated[int, Field(ge=1, le=10**8)]
    """Optimizer steps; a finished run goes on when this is raised."""
    sequence_length: Annotated[int, Field(ge=SHORTEST, le=LONGEST)]
    """T, positions a row."""
    max_sequence_length: Annotated[int, Field(ge=SHORTEST, le=LONGEST)]
    """The largest T that this run may ever be given; by default sequence_length."""
    batch_rows: BatchRows
    """Rows of one step over all processes, or [[row, rows], …]."""
    lanes: Annotated[int, Field(ge=1, le=2**16)] = 12
    """The most processes that may ever share the rows; a number with many divisors."""
    tokenizer: TokenizerFile
    data: DataConfig
    objectives: Annotated[Mixture, PlainValidator(_mixture), PlainSerializer(Mixture.describe)]
    """The objectives with their weights and settings."""
    normalise: Normalise = "global"
    """What the loss of a step is divided by: its whole weight, or each objective's own."""
    model: ModelConfig
    optimizer: OptimizerConfig
    layout: LayoutConfig = LayoutConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    wandb: WandbConfig = WandbConfig()
    fingerprint: bool = False
    """Write the hash of each step's rows into metrics.jsonl."""
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        """Combinations that cannot work. The text before the first ': ' is the key at fault."""
        if self.max_sequence_length < self.sequence_length:
            raise ValueError(
                f"max_sequence_length: expected at least sequence_length ({self.sequence_length}), "
                f"got {self.max_sequence_length}"
            )
        total = sum(corpus.weight for corpus in self.data.corpora.values())
        if not total > 0:
            raise ValueError("data.corpora: expected a corpus with a weight above 0, all are 0")
        for name, corpus in self.data.corpora.items():
            if 0 < corpus.weight < LEAST_SHARE * total:
                raise ValueError(
                    f"data.corpora.{name}.weight: expected 0, or at least a millionth of all weights "
                    f"({total:g}), got {corpus.weight:g}"
                )
        if self.eval.every and not any(corpus.held_out for corpus in self.data.corpora.values()):
            raise ValueError(
                "eval.every: needs held-out text; give a corpus 'held_out: 0.01', or leave eval.every out"
            )
        if self.eval.samples.prompts and not self.eval.every:
            raise ValueError("eval.samples.prompts: are written at evaluations; set eval.every as well")
        if self.checkpoint.weights_only_after and not self.checkpoint.keep_every:
            raise ValueError(
                "checkpoint.weights_only_after: concerns the saves that keep_every keeps; set that as well"
            )
        return self

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.run.folder) / self.run.name


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a file over its base, with 'key.sub=value' overrides over both. BadInput, one line."""
    document = read(path)
    if not document.data:
        raise BadInput(f"{path}: is empty; expected sections such as 'run:' and 'model:'")
    data, locations = document.data, dict(document.locations)
    base = data.pop("base", None)
    if base is not None:
        where = locations.pop(("base",))
        if not isinstance(base, str):
            raise BadInput(f"{where}: base: expected the path of a config, got {base!r}")
        under = read(Path(path).parent / base)
        if "base" in under.data:
            raise BadInput(
                f"{under.locations['base',]}: base: a base has no base of its own ({where} names it)"
            )
        data, locations = _merge(under.data, data), {**under.locations, **locations}
    for override in overrides:
        data = _override(data, locations, override)
    return build(data, locations, str(path))


def edit(config: Config, overrides: Sequence[str]) -> Config:
    """The config with 'key.sub=value' edits."""
    data, locations = plain(config), dict[Key, str]()
    for override in overrides:
        data = _override(data, locations, override)
    return build(data, locations, "the run's config")


def build(data: Mapping[str, Any], locations: Locations, name: str) -> Config:
    """The Config that plain values say; `locations` and `name` tell where they stood, for messages."""
    data = dict(data)
    if data.get("max_sequence_length") is None:
        data["max_sequence_length"] = data.get("sequence_length")
        if data["max_sequence_length"] is None:
            del data["max_sequence_length"]
    model = data.get("model")
    if isinstance(model, Mapping) and isinstance(data.get("max_sequence_length"), int):
        if "max_sequence_length" in model:
            location = locations.get(("model", "max_sequence_length"), name)
            raise BadInput(
                f"{location}: model.max_sequence_length: is set as max_sequence_length, beside "
                "sequence_length"
            )
        data["model"] = {**model, "max_sequence_length": data["max_sequence_length"]}
    try:
        # By way of JSON: in pydantic's strict mode a list may then stand for a tuple, and nothing else bends.
        return Config.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise BadInput(sentence(error, Config, locations, name, data)) from None


def plain(config: Config) -> dict[str, Any]:
    """Dicts, lists and scalars, complete; `build` makes the same Config of them."""
    data = config.model_dump(mode="json")
    del data["model"]["max_sequence_length"]
    return data


def dump(config: Config) -> str:
    """The complete config as YAML that `load` reads."""
    return dump_yaml(plain(config))


def difference(old: Config, new: Config) -> list[str]:
    """One line a key whose values differ: 'model.width: 256, now 512'."""
    before, after = _flat(plain(old)), _flat(plain(new))
    return [
        f"{dotted(key)}: {_show(before, key)}, now {_show(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


def require_files(config: Config) -> None:
    """BadInput unless the tokenizer that the config names is there."""
    if not os.path.isfile(config.tokenizer.model):  # pathlib's is_file() raises for a name that is too long
        raise BadInput(
            f"tokenizer.model: no file {config.tokenizer.model}; make one with 'headrace tokenizer train'"
        )


def require_same_run(old: Config, new: Config) -> None:
    """BadInput where an edit names another run than the one that it edits."""
    if new.run != old.run:
        raise BadInput(
            "run: names the folder of a run and cannot be edited; begin another run with "
            f"'headrace train CONFIG run.name={new.run.name}'"
        )


def require_processes(config: Config, processes: int) -> None:
    """BadInput where this many processes cannot share the run's rows."""
    if processes < 1:
        raise BadInput(f"--processes: expected 1 or more, got {processes}")
    if processes > config.lanes:
        raise BadInput(
            f"lanes: {config.lanes} lanes cannot be shared by {processes} processes; start at most "
            f"{config.lanes}, or begin a new run with more lanes"
        )


_ABSENT = object()


def _show(flat: Mapping[Key, Any], key: Key) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "absent"


def _flat(data: Mapping[str, Any], above: Key = ()) -> dict[Key, Any]:
    flat: dict[Key, Any] = {}
    for word, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, (*above, word)))
        else:
            flat[(*above, word)] = value
    return flat


def _merge(under: Mapping[str, Any], over: Mapping[str, Any], above: Key = ()) -> dict[str, Any]:
    """Sections are merged key by key; anything else is replaced."""
    merged = dict(under)
    for word, value in over.items():
        below = merged.get(word)
        if value is None and above in NAMED:
            merged.pop(word, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[word] = _merge(below, value, (*above, word))
        else:
            merged[word] = value
    return merged


def _override(data: dict[str, Any], locations: dict[Key, str], override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    words = name.strip().split(".")
    if not equals or not all(words):
        raise BadInput(f"'{override}': expected key=value or key.sub=value, such as optimizer.lr=3e-4")
    nested = parse_value(text, f"command line, {name}")
    for depth in range(len(words), 0, -1):
        locations.setdefault(tuple(words[:depth]), "command line")
        nested = {words[depth - 1]: nested}
    locations[tuple(words)] = "command line"
    return _merge(data, nested)
