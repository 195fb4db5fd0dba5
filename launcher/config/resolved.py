"""The whole config with the place that each value comes from: what `headrace check --resolved` prints.

    the layers that were typed (layers.py)  ──▶ file:line of the config or of its base, command line
    what nobody said                        ──▶ default, or derived from other keys
    the run, where it exists                ──▶ file:line of its own config, for what edits have changed since

As text it is YAML: one line a key, the place behind it in a comment, so that `headrace train` takes it back.
There a value that is derived stays null, which is what lets it follow the keys that it is derived from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.plan.make import usual_block_bytes
from launcher.config.compare import flat
from launcher.config.layers import read_layers
from launcher.config.run_config import Config, build, plain
from launcher.config.yaml_reader import Key, dotted, one_line, read

DEFAULT, DERIVED = "default", "derived"
COLUMN, WIDEST = 32, 64
"""The comments begin at this column at least, further on behind longer values, and one space behind those
that are longer than WIDEST."""


@dataclass(frozen=True)
class Setting:
    """A key with what stands in the config, what that comes to, and where it comes from: 'FILE:LINE',
    'command line', DEFAULT or DERIVED."""

    key: Key
    written: Any
    value: Any
    origin: str


def resolve(
    path: str | Path, overrides: Sequence[str], in_force: Config, run_file: Path | None = None
) -> list[Setting]:
    """Every key of `in_force` in the order of the config: what comes of `path` and `overrides`, or of the run
    that is gone on with. run_file: the config that this run keeps. BadInput as of `load`."""
    layers = read_layers(path, overrides)
    asked = flat(plain(build(layers.data, layers.locations, str(path))))
    said, derived = flat(layers.data), _derived(in_force)
    kept = read(run_file).locations if run_file else {}
    settings = []
    for key, written in flat(plain(in_force)).items():
        edited = key not in asked or asked[key] != written
        locations = kept if edited else layers.locations
        origin, value = locations.get(key, DEFAULT), written
        if key in derived and (written is None or (not edited and said.get(key) is None)):
            origin, value = DERIVED, derived[key] if written is None else written
        settings.append(Setting(key, written, value, origin))
    return settings


def _derived(config: Config) -> dict[Key, Any]:
    """What the keys come to that follow from others where nothing else is said."""
    derived: dict[Key, Any] = {
        ("max_sequence_length",): config.sequence_length,
        ("data", "block_bytes"): usual_block_bytes(config.max_sequence_length),
        ("model", "kv_heads"): config.model.num_kv_heads,
        ("model", "mlp_width"): config.model.mlp_features,
    }
    if config.optimizer.schedule == "wsd":
        derived["optimizer", "decay"] = config.timetable().decay
    return derived


def as_json(settings: Iterable[Setting]) -> dict[str, Any]:
    """{key: {value: what it comes to, from: its origin}}."""
    return {dotted(one.key): {"value": one.value, "from": one.origin} for one in settings}


def as_yaml(settings: Iterable[Setting], about: str = "") -> str:
    """A config that `load` makes the same Config of, one line a key, with the origins in comments. about:
    what is to be said above it."""
    lines: list[tuple[str, str]] = []
    above: Key = ()
    for one in settings:
        *sections, last = one.key
        for depth, section in enumerate(sections):
            if tuple(sections[: depth + 1]) != above[: depth + 1]:
                lines.append((f"{'  ' * depth}{section}:", ""))
        above = tuple(sections)
        shown = f": {one_line(one.value)}" if one.origin == DERIVED and one.written is None else ""
        lines.append(
            (f"{'  ' * len(sections)}{last}: {one_line(one.written)}", _comment(f"{one.origin}{shown}"))
        )
    column = max([COLUMN, *(len(text) + 2 for text, _ in lines if len(text) + 2 <= WIDEST)])
    head = f"{_comment(about)}\n" if about else ""
    return head + "".join(f"{text:<{column}} {whence}".rstrip() + "\n" for text, whence in lines)


def _comment(text: str) -> str:
    """As a comment of YAML. A file may have a break in its name, or what no YAML may hold: an escape then."""
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
