"""The layers of a config, one laid over the other: what was typed over the file, the file over its base.

Each layer is a YamlDocument: values, and for every key where it stands. Laid over another, its sections merge
key by key and anything else takes the place of what was there; the places go the same way, so that after all
layers each key is known with the one place that it comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import BadInput
from launcher.config.yaml_reader import Key, YamlDocument, parse_value, read

NAMED = (("data", "corpora"), ("eval", "corpora"), ("objectives",))
"""Sections whose keys are names: over a base or an override, `name: null` takes one out."""

COMMAND_LINE = "command line"
"""The place of what was typed as key=value."""


def read_layers(path: str | Path, overrides: Sequence[str] = ()) -> YamlDocument:
    """A file over its base, with 'key.sub=value' overrides over both. BadInput, one line."""
    over = read(path)
    if not over.data:
        raise BadInput(f"{path}: is empty; expected sections such as 'run:' and 'model:'")
    own = _without_base(over)
    layers = own if over.data.get("base") is None else overlay(_base(path, over), own)
    return with_overrides(layers, overrides)


def with_overrides(under: YamlDocument, overrides: Sequence[str]) -> YamlDocument:
    """A config with 'key.sub=value' edits. BadInput where one is no such."""
    for override in overrides:
        under = overlay(under, _typed(override, under))
    return under


def overlay(under: YamlDocument, over: YamlDocument) -> YamlDocument:
    """`over` laid over `under`."""
    replaced: list[Key] = []
    data = _merge(under.data, over.data, (), replaced)
    kept = {
        key: location
        for key, location in under.locations.items()
        if not any(key[: len(gone)] == gone for gone in replaced)
    }
    return YamlDocument(data, kept | dict(over.locations))


def _merge(under: Mapping[str, Any], over: Mapping[str, Any], at: Key, replaced: list[Key]) -> dict[str, Any]:
    """The values; keys of `under` that are taken out, or hold something else now, are added to `replaced`."""
    merged = dict(under)
    for word, value in over.items():
        below, key = merged.get(word), (*at, word)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[word] = _merge(below, value, key, replaced)
            continue
        replaced.append(key)
        if value is None and at in NAMED:
            merged.pop(word, None)
        else:
            merged[word] = value
    return merged


def _base(path: str | Path, document: YamlDocument) -> YamlDocument:
    base, where = document.data["base"], document.locations["base",]
    if not isinstance(base, str):
        raise BadInput(f"{where}: base: expected the path of a config, got {base!r}")
    under = read(Path(path).parent / base)
    if "base" in under.data:
        raise BadInput(f"{under.locations['base',]}: base: a base has no base of its own ({where} names it)")
    return under


def _without_base(document: YamlDocument) -> YamlDocument:
    data = {key: value for key, value in document.data.items() if key != "base"}
    locations = {key: location for key, location in document.locations.items() if key != ("base",)}
    return YamlDocument(data, locations)


def _typed(override: str, under: YamlDocument) -> YamlDocument:
    """The layer of one override. A section that it reaches into keeps its place where it has one already."""
    name, equals, text = override.partition("=")
    words = tuple(name.strip().split("."))
    if not equals or not all(words):
        raise BadInput(f"'{override}': expected key=value or key.sub=value, such as optimizer.lr=3e-4")
    value = parse_value(text, f"{COMMAND_LINE}, {name}")
    locations = dict.fromkeys(_keys(value, words), COMMAND_LINE)
    held: Any = under.data
    for depth, word in enumerate(words, start=1):
        held = held.get(word) if isinstance(held, Mapping) else None
        if depth < len(words) and not isinstance(held, Mapping):
            locations[words[:depth]] = COMMAND_LINE
    if value == {} and isinstance(held, Mapping) and held:
        out = f"take one out with {name}.{next(iter(held))}=null"
        remedy = out if words in NAMED else "name the keys to change"
        raise BadInput(
            f"{COMMAND_LINE}, {name}: an empty section changes nothing of one that is there; {remedy}"
        )
    for word in reversed(words):
        value = {word: value}
    return YamlDocument(value, locations)


def _keys(value: Any, at: Key) -> Iterator[Key]:
    yield at
    if isinstance(value, Mapping):
        for word, below in value.items():
            yield from _keys(below, (*at, word))
