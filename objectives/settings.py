"""Settings of an objective, from plain values (a config file) to its frozen dataclass and back.

A value must have the type that the dataclass states: a bool is no number, a number no text. What is wrong
comes out as one ValueError "key.key: what was expected", which the config reader ties to a line of its file.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one; None where none does."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(guess: str | None) -> str:
    """'; did you mean …?', to end a message; nothing where there is no guess."""
    return f"; did you mean {guess}?" if guess else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """'; did you mean …? known: …', to end a message about an unknown word."""
    known = list(known)
    return f"{did_you_mean(nearest(word, known)) or ';'} known: {', '.join(known) or 'none'}"


def brief(value: Any) -> str:
    """A value in a few words, as a config has it: what was got, to end a message."""
    if isinstance(value, Mapping):
        return "a section"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def parse_settings(kind: type[T], config: Mapping[str, Any], where: str, extra: tuple[str, ...] = ()) -> T:
    """An instance of the dataclass `kind`; fields left out keep their defaults. ValueErrors begin with the
    key's place under `where`. `extra`: keys of the same place that the caller reads, for the message."""
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: expected settings (key: value), got {config!r}")
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in config:
        if key not in names:
            raise ValueError(f"{where}.{key}: unknown key{suggestion(str(key), [*extra, *names])}")
    values = {key: _parse(hints[key], value, f"{where}.{key}") for key, value in config.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def describe_settings(settings: Any) -> dict[str, Any]:
    """The plain values of a settings dataclass, defaults included: parse_settings gives an equal one."""
    return {field.name: _describe(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _describe(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return describe_settings(value)
    if isinstance(value, tuple):
        return [_describe(item) for item in value]
    return value


def _parse(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` demands, or ValueError."""
    if get_origin(hint) in (Union, types.UnionType):
        return _parse_union(get_args(hint), value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected {_words(hint)}, got {value!r}")
        return tuple(_parse(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return parse_settings(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, got {value}")
        return float(value)
    if (hint is bool and isinstance(value, bool)) or (hint is type(None) and value is None):
        return value
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    raise ValueError(f"{where}: expected {_words(hint)}, got {value!r}")


def _parse_union(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first alternative that takes the value; of a structure, the error of its own alternative."""
    for hint in hints:
        if get_origin(hint) is tuple and isinstance(value, list | tuple):
            return _parse(hint, value, where)
    for hint in hints:
        try:
            return _parse(hint, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where}: expected {' or '.join(map(_words, hints))}, got {value!r}")


def _words(hint: Any) -> str:
    """A type in a user's words."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list"
    return {float: "a number", bool: "true or false", type(None): "null"}.get(hint, "settings (key: value)")
