"""The config of a run: read, merged, checked, frozen.

    file ──▶ yaml_reader (values + the line of each key) ──▶ layers (the base under it, key=value over it)
         ──▶ sections validated by the parts that own them ──▶ combinations refused in words ──▶ Config

Everything wrong is one BadInput line: 'first.yaml:12: model.heads: expected …, got …; did you mean …?'.
Nothing here looks at the world (files, GPUs, processes): `require_files` and `require_processes` do, and are
called by whoever starts something. After `load` a Config never changes; what a resume edits is a new Config.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from data.errors import BadInput
from data.plan.asked_rows import AskedRows
from data.plan.plan import History, Normalise
from data.plan.timeline import RowRate, Timeline
from launcher.config.layers import read_layers, with_overrides
from launcher.config.messages import Locations, RenamedKey, refusal
from launcher.config.sections import (
    BatchRows,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    LocalPath,
    LogConfig,
    ReplicaConfig,
    Run,
    Section,
    TextConfig,
    TokenizerFile,
    WandbConfig,
)
from launcher.config.timetable import MOST_STEPS, Timetable, placed_in_rows, require_possible, row_finder
from launcher.config.yaml_reader import YamlDocument, dump_yaml
from launcher.engine.ema import EmaConfig
from launcher.engine.layout import LayoutConfig, require_shares
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.stages import stage_borders
from model.config import ModelConfig
from objectives.example_builder import SHORTEST
from objectives.mixture import Mixture
from objectives.noise import LONGEST
from objectives.quantity import Tokens, steps_or_tokens, written


def _mixture(value: Any) -> Mixture:
    if not isinstance(value, Mapping):
        raise ValueError("expected a section with one key an objective, such as 'causal: {weight: 1}'")
    return Mixture.parse(value)


def _steps(value: Any) -> int | Tokens:
    found = steps_or_tokens(value)
    if isinstance(found, int) and found > MOST_STEPS:
        raise ValueError(f"expected at most {MOST_STEPS}, got {found}")
    return found


class Config(Section):
    """Everything that a run is told, complete with defaults."""

    run: Run
    init_from: LocalPath | None = None
    """Begin from the weights of another run: RUN, RUN@STEP, or the folder of a checkpoint."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    steps: Annotated[int | Tokens, PlainValidator(_steps), PlainSerializer(written)]
    """Optimizer steps, or tokens (positions, by which the last step follows from B and T: timetable.py); a
    finished run goes on when this is raised."""
    sequence_length: Annotated[int, Field(ge=SHORTEST, le=LONGEST)]
    """T, positions a row."""
    max_sequence_length: Annotated[int, Field(ge=SHORTEST, le=LONGEST)]
    """The largest T that blocks of text are made for, and learned positions; by default sequence_length. A
    resume may raise both where positions are rotary."""
    batch_rows: BatchRows
    """Rows of one step over all processes, or [[row, rows], …], [['1B tokens', rows], …]."""
    lanes: Annotated[int, Field(ge=1, le=2**16)] = 12
    """What the rows are dealt out by; best a multiple of the processes, and a number with many divisors."""
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
    replicas: ReplicaConfig = ReplicaConfig()
    eval: EvalConfig = EvalConfig()
    ema: EmaConfig = EmaConfig()
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
        require_possible(self.timetable())
        try:
            _ = self.mixture
        except ValueError as error:
            raise ValueError(f"objectives: {error}") from None
        self._require_weights()
        self._require_learning()
        if twice := [name for name in self.eval.corpora if name in self.data.corpora]:
            raise ValueError(
                f"eval.corpora.{twice[0]}: data.corpora has one of this name too, and losses go by name; "
                f"give it another, such as {twice[0]}-eval"
            )
        held_out = any(corpus.held_out for corpus in self.data.corpora.values())
        if self.eval.every and not held_out and not self.eval.corpora:
            raise ValueError(
                "eval.every: needs held-out text; give a corpus 'held_out: 0.01', name shards that are never "
                "trained on under eval.corpora, or leave eval.every out"
            )
        if self.eval.samples.prompts and not self.eval.every:
            raise ValueError("eval.samples.prompts: are written at evaluations; set eval.every as well")
        stage_borders(self.layout, self.model, 1, self.sequence_length)  # ValueError: too few blocks
        self._require_columns()
        require_shares(self.layout, self.model)
        if self.checkpoint.weights_only_after and not self.checkpoint.keep_every:
            raise ValueError(
                "checkpoint.weights_only_after: concerns the saves that keep_every keeps; set that as well"
            )
        if self.ema.every > 1 and self.ema.decay is None:
            raise ValueError("ema.every: concerns the average that ema.decay keeps; set that as well")
        return self

    def _require_weights(self) -> None:
        """ValueError where at some row no corpus has a weight, or where one never has enough for a row."""
        corpora = self.data.corpora
        try:
            row_for = row_finder(self.sequence_length)
            asked = AskedRows([corpus.weight.in_rows(row_for) for corpus in corpora.values()])
        except ValueError as error:
            raise ValueError(f"data.corpora: expected a corpus with a weight above 0: {error}") from None
        for number, (name, corpus) in enumerate(corpora.items()):
            if corpus.weight.most > 0 and not asked.ever(number):
                raise ValueError(
                    f"data.corpora.{name}.weight: expected 0, or at least a millionth of all weights, got "
                    f"{corpus.weight.describe()}"
                )

    def _require_learning(self) -> None:
        """ValueError where no target would count."""
        why = "with 0 alone nothing is learned"
        corpora = [corpus for corpus in self.data.corpora.values() if corpus.weight.most > 0]
        if not any(corpus.coefficient for corpus in corpora):
            raise ValueError(f"data.corpora: expected a corpus with a coefficient above 0: {why}")
        if not any(entry.coefficient for entry in self.objectives.entries):
            raise ValueError(f"objectives: expected one with a coefficient above 0: {why}")

    def _require_columns(self) -> None:
        """ValueError where the ranks of a sequence cannot share rows, or would not compute what one does."""
        parts = self.layout.sequence
        if parts == 1:
            return
        if (length := self.sequence_length) % parts:
            raise ValueError(
                f"sequence_length: expected a multiple of layout.sequence ({parts}), got {length}"
            )
        shared = parts * self.layout.tensor  # each tensor rank has some of the heads, and exchanges these
        if self.model.heads % shared:
            product = f"({parts})" if shared == parts else f"× layout.tensor ({shared})"
            raise ValueError(
                f"model.heads: expected a multiple of layout.sequence {product}, got {self.model.heads}"
            )
        for key in ("dropout", "attention_dropout"):
            if rate := getattr(self.model, key):
                raise ValueError(
                    f"model.{key}: expected 0 with layout.sequence {parts}, got {rate:g}: each process would "
                    "draw masks for its part of a row, which are not those of a whole one"
                )

    @property
    def texts(self) -> dict[str, TextConfig]:
        """All text that is read, by name: what is trained on, and what is evaluated on alone."""
        return {**self.data.corpora, **self.eval.corpora}

    def location(self, name: str) -> str:
        """The key under which a text of this name stands."""
        return f"{'eval' if name in self.eval.corpora else 'data'}.corpora.{name}"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.run.folder) / self.run.name

    def timetable(self, history: History | None = None) -> Timetable:
        """When the run ends, evaluates and saves, and its learning rate. history: of its plan, whose newest
        segment is as this config asks; None: of a run that begins with this config."""
        timeline = Timeline(history.segments) if history else self._alone
        return Timetable(
            self.steps,
            self.optimizer,
            self.eval.every,
            self.checkpoint.every,
            self.checkpoint.keep_every,
            timeline,
        )

    @property
    def mixture(self) -> Mixture:
        """The objectives with all places in rows, of a run that begins with this config. ValueError where no
        objective has a weight at some row."""
        return self.objectives.in_rows(row_finder(self.sequence_length))

    @property
    def _alone(self) -> Timeline:
        rows = placed_in_rows(self.batch_rows, row_finder(self.sequence_length))
        return Timeline([(0, RowRate(self.sequence_length, rows))])


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a file over its base, with 'key.sub=value' overrides over both. BadInput, one line."""
    layers = read_layers(path, overrides)
    return build(layers.data, layers.locations, str(path))


def load_kept(path: Path) -> Config:
    """A config that a run keeps. BadInput says what to do where it has keys of before."""
    try:
        return load(path)
    except RenamedKey as error:
        raise BadInput(
            f"{error}; this run was written by an older headrace: begin a new run, or go on with the "
            "headrace that began it"
        ) from None


def edit(config: Config, overrides: Sequence[str]) -> Config:
    """The config with 'key.sub=value' edits. One that asks for rows above max_sequence_length raises that
    with them; BadInput where the model has no positions there."""
    layers = with_overrides(YamlDocument(plain(config), {}), overrides)
    length, most = layers.data["sequence_length"], config.max_sequence_length
    longer = isinstance(length, int) and length > most == layers.data["max_sequence_length"]
    if longer and config.model.positions == "learned":
        raise BadInput(
            f"sequence_length: {length} is above max_sequence_length ({most}), and with learned positions "
            "(model.positions) the model has none beyond it; begin another run"
        )
    data = {**layers.data, "max_sequence_length": length} if longer else layers.data
    return build(data, layers.locations, "the run's config")


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
        raise refusal(error, Config, locations, name, data) from None


def plain(config: Config) -> dict[str, Any]:
    """Dicts, lists and scalars, complete; `build` makes the same Config of them."""
    data = config.model_dump(mode="json")
    del data["model"]["max_sequence_length"]
    return data


def dump(config: Config) -> str:
    """The complete config as YAML that `load` reads."""
    return dump_yaml(plain(config))
