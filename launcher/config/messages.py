"""One line for whatever pydantic, the mixture or the model found wrong with a config.

    FILE:LINE: KEY: expected WHAT, got WHAT; did you mean WHICH?

The line is that of the key, or of the nearest section around it. A part that refuses a value of its own
raises ValueError, and may begin its text with the key, relative to its section: 'heads: expected …'.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, PlainValidator, ValidationError

from data.errors import BadInput
from launcher.config.layers import COMMAND_LINE
from launcher.config.yaml_reader import Key, dotted
from objectives.settings import brief, did_you_mean, nearest

Locations = Mapping[Key, str]

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text, not an empty one",
    "string_pattern_mismatch": "a name of letters, digits, - and _",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "model_attributes_type": "a section",
    "dataclass_type": "a section",
}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
RENAMED: Mapping[Key, str] = {
    ("longest_sequence",): "max_sequence_length",
    ("model", "hidden"): "model.mlp_width",
    ("model", "deviation"): "model.init_std",
    ("model", "tied"): "model.tie_embeddings",
    ("model", "placement"): "model.norm_placement",
    ("model", "chunk"): "model.loss_chunk",
    ("model", "longest"): "max_sequence_length",
    ("optimizer", "clip"): "optimizer.grad_clip",
    ("data", "cache", "retries"): "data.patience",
}
"""Keys of configs of before, and what they are called now."""


OF_OTHER_TOOLS: Mapping[str, str] = {
    **dict.fromkeys(("tp", "mp", "tensor_parallel", "tensor_parallel_size"), "layout.tensor"),
    **dict.fromkeys(("tensor_model_parallel_size", "model_parallel_size"), "layout.tensor"),
    **dict.fromkeys(("pp", "pipeline_parallel", "pipeline_parallel_size"), "layout.pipeline"),
    **dict.fromkeys(("pipeline_model_parallel_size", "num_stages"), "layout.pipeline"),
    **dict.fromkeys(("sp", "cp", "sequence_parallel", "context_parallel"), "layout.sequence"),
    **dict.fromkeys(("sequence_parallel_size", "context_parallel_size", "ulysses"), "layout.sequence"),
}
"""What other tools call keys of `layout`, wherever in a config it stands."""
DATA_PARALLEL = {"dp", "data_parallel", "data_parallel_size", "dp_size"}


class RenamedKey(BadInput):
    """A config has a key of before: it was written for an older headrace, or by one."""


def refusal(
    error: ValidationError, root: type[BaseModel], locations: Locations, name: str, data: Mapping[str, Any]
) -> BadInput:
    """The first thing wrong with `data`, in one line, and how many more there are."""
    problems = error.errors(include_url=False)
    # A key of before explains much else; an unknown key the missing one that it was meant to be.
    problems.sort(key=lambda problem: (not _renamed(problem), problem["type"] == "missing"))
    key, text = _problem(problems[0], root, data)
    while key and key not in locations:
        key = key[:-1]
    more = len(problems) - 1
    tail = f" (and {more} more)" if more else ""
    kind = RenamedKey if _renamed(problems[0]) else BadInput
    return kind(f"{_place(key, tuple(problems[0]['loc']), locations, name)}: {text}{tail}")


def _place(key: Key, judged: Key, locations: Locations, name: str) -> str:
    """Where a key stands. What judged may have been a whole section, of which some keys were typed over those
    of the file: then both."""
    if not key:
        return name
    place = locations.get(key, name)
    typed = any(
        at == COMMAND_LINE and judged and below[: len(judged)] == judged for below, at in locations.items()
    )
    return f"{COMMAND_LINE} over {place}" if typed and place != COMMAND_LINE else place


def _renamed(problem: Mapping[str, Any]) -> bool:
    return problem["type"] in _UNKNOWN and tuple(problem["loc"]) in RENAMED


def _problem(problem: Mapping[str, Any], root: type[BaseModel], data: Mapping[str, Any]) -> tuple[Key, str]:
    """The key at fault and what to say of it."""
    key, kind, got = tuple(problem["loc"]), problem["type"], problem["input"]
    context = problem.get("ctx", {})
    if kind in _UNKNOWN:
        if _renamed(problem):
            return key, f"{dotted(key)}: is called {RENAMED[key]} now"
        return key, f"{dotted(key)}: unknown key{_nearest(key, root)}"
    if kind in ("missing", "missing_argument"):
        return key, f"{dotted(key)}: is missing{_misnamed(key[:-1], data)}"
    if kind == "value_error":
        word, colon, rest = str(context["error"]).partition(": ")
        named = (*key, *word.split("."))
        if colon and " " not in word:
            return named, f"{dotted(named)}: {rest}"
        return key, f"{dotted(key)}: {context['error']}" if key else str(context["error"])
    # Union members and mapping keys appear in pydantic's place as words that no config contains.
    named = _standing(tuple(part for part in key if part != "[key]"), data)
    said = expectation(problem)
    if said is None:
        return key, f"{dotted(key)}: {problem['msg'].lower()}, got {brief(got)}"
    return named, f"{dotted(named)}: {said}"


def _standing(key: Key, data: Any) -> Key:
    """As much of a key as stands in the config."""
    for depth, part in enumerate(key):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return key[:depth]
    return key


def expectation(problem: Mapping[str, Any]) -> str | None:
    """'expected WHAT, got WHAT' of one of pydantic's errors about a value; None for a kind not known here."""
    kind, got, context = problem["type"], problem["input"], problem.get("ctx", {})
    close = ""
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        return f"expected {f'at least {least}' if most is None else f'at most {most}'}, got {len(got)}"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} characters, got {len(got)}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        expected = f"{words} {context[bound]}"
    elif kind == "literal_error":
        expected = f"{context['expected']}"
        if isinstance(got, str):
            choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
            close = did_you_mean(nearest(got, choices))
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
        if expected == "a list" and isinstance(got, str | int | float) and not isinstance(got, bool):
            close = did_you_mean(f"[{got}]")
    else:
        return None
    return f"expected {expected}, got {brief(got)}{close}"


def _nearest(key: Key, root: type[BaseModel]) -> str:
    """'; did you mean …?' with the nearest key of the same section, or the same key elsewhere."""
    if guess := OF_OTHER_TOOLS.get(str(key[-1])):
        return did_you_mean(guess)
    if key[-1] in DATA_PARALLEL:
        return "; the data-parallel degree follows from the number of processes"
    here = [str(option[-1]) for option in options(root) if _matches(option[:-1], key[:-1])]
    found = nearest(str(key[-1]), here)
    if found:
        return did_you_mean(dotted((*key[:-1], found)))
    elsewhere = [option for option in options(root) if option[-1] == key[-1]]
    if elsewhere:
        return did_you_mean(dotted(elsewhere[0]))
    return f"; known here: {', '.join(here)}" if here else ""


def _misnamed(section: Key, data: Mapping[str, Any]) -> str:
    """'; did you mean …?' where a section that is not complete bears nearly the name of another one."""
    for part in section[:-1]:
        data = data.get(str(part), {})
    if not section or not isinstance(data, Mapping):
        return ""
    near = nearest(str(section[-1]), [name for name in data if name != section[-1]])
    return did_you_mean(dotted((*section[:-1], near)) if near else None)


def _matches(option: Key, key: Key) -> bool:
    return len(option) == len(key) and all(a in ("*", b) for a, b in zip(option, key, strict=True))


def options(root: type) -> Iterator[Key]:
    """Every key path that a config may have, sections before their keys; '*' stands for a name. Of a section
    that its part parses itself (the mixture) the name alone is known here."""
    if issubclass(root, BaseModel):
        fields = {
            name: None if any(isinstance(one, PlainValidator) for one in field.metadata) else field.annotation
            for name, field in root.model_fields.items()
        }
    else:
        assert dataclasses.is_dataclass(root)
        hints = typing.get_type_hints(root)
        fields = {name: hints[name] for name in root.__dataclass_fields__}
    for name, kind in fields.items():
        yield (name,)
        for inner, above in _sections(kind):
            for option in options(inner):
                yield (name, *above, *option)


def _sections(kind: Any) -> Iterator[tuple[type, Key]]:
    """The section classes inside a type, and the name between: dict[str, CorpusConfig] has '*'."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
            yield kind, ()
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        for inner, above in _sections(arguments[1]):
            yield inner, ("*", *above)
    elif origin in (typing.Union, types.UnionType, typing.Annotated):
        for argument in arguments if origin is not typing.Annotated else arguments[:1]:
            yield from _sections(argument)
