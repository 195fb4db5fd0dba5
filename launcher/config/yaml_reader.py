"""YAML as plain values, with the line of every key remembered, so that an error can point at its cause.

A config is read by composing YAML's nodes (PyYAML's safe loader, so no tag ever builds an object) and walking
them into dicts, lists and scalars. While walking, `locations` notes where each key stands. What differs from
PyYAML's habit differs because a config was once misread by it, or could be:

- A key that stands twice is refused instead of the last one winning.
- Keys are always text: a corpus may be called 2024 or no.
- Scalars follow YAML 1.2: 3e-4 and 017 are the numbers they look like; on, no, y, 12:30:00 and 2024-01-01 are
  text. Beyond it a number may have underscores (1_000); 0x1F and 0o17 stay text, for they are seen more often
  in names of documents, and where a number is wanted they are refused.
- A tag never changes what stands there: !!int 0x4, !!set, !!python/object and the like are refused. So are
  merge keys (<<), which YAML 1.2 does not have; a config has `base:`.

ruamel.yaml was tried in place of this file, by its documented loader, which knows lines, duplicate keys and
YAML 1.2. It would have saved the table of words and a few lines of the walk (95 lines of 169 remained ours),
and eleven of our tests failed: !!bool maybe, !!float abc and a number of 5000 digits are tracebacks in it, an
alias to itself, half of a surrogate pair and the key "" are taken; 1 and '1' become one key without a word,
and a merge key written in place is a KeyError. Mending that means walking its nodes as here. It took 5.4 ms
for configs/first.yaml where this takes 2.5, and would be one dependency more, of 14 800 lines.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.errors import BadInput

Key = tuple[str | int, ...]
"""A key path: ('data', 'corpora', 'code', 'shards', 0)."""

_YAML = "tag:yaml.org,2002:"
_COLLECTIONS = (_YAML + "map", _YAML + "seq")

MOST_VALUES = 100_000
"""Far above any config: aliases of aliases can spell 10⁹ values in ten lines."""


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's scalars and no others."""


_WORDS = {
    kind: re.compile(rf"(?:{pattern})\Z")
    for kind, pattern in (
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("int", r"[-+]?[0-9][0-9_]*"),
        (
            "float",
            r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        ),
        ("null", r"~|null|Null|NULL|"),
    )
}
"""What a word looks like that is more than text; it is the first of these that it looks like."""

_Loader.yaml_implicit_resolvers = {None: [(_YAML + kind, word) for kind, word in _WORDS.items()]}


@dataclass(frozen=True)
class YamlDocument:
    """The mapping that a file holds, and for every key path in it where it stands ('first.yaml:12')."""

    data: dict[str, Any]
    locations: Mapping[Key, str]


def read(path: str | Path) -> YamlDocument:
    """The mapping in a YAML file. BadInput: no such file, not YAML, not a mapping, a key standing twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: expected YAML text in UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadInput(
            f"{str(path)!r}: expected the path of a config, without a zero character in it"
        ) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> YamlDocument:
    """As `read`, of a text; `name` stands for the file in messages."""
    locations: dict[Key, str] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = {} if node is None else _plain(loader, node, name, (), locations, [])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadInput(f"{name}:{line}: not YAML: {_line(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{name}: not YAML: {_line(error)}") from None
    except RecursionError:
        raise BadInput(f"{name}: sections or lists nested too deep for a config") from None
    if not isinstance(data, dict):
        raise BadInput(f"{name}:1: expected sections such as 'run:' and 'model:', got {type(data).__name__}")
    return YamlDocument(data, locations)


def parse_value(text: str, name: str) -> Any:
    """The value that a text stands for, as after 'key: ' in a file; for key=value on the command line."""
    data = parse(f"value: {text}" if text.strip() else "value: ''", name).data
    if len(data) > 1:
        raise BadInput(f"{name}: expected one value, got more lines with keys: {', '.join([*data][1:])}")
    return data["value"]


def dump_yaml(data: dict[str, Any]) -> str:
    """YAML text that `parse` reads back as the same values, in the order of `data`."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def one_line(value: Any) -> str:
    """YAML of one line that `parse_value` reads back as the same value."""
    shape: dict[str, Any] = {"default_flow_style": True, "width": math.inf}
    text = yaml.dump([value], Dumper=_OneLine, sort_keys=False, allow_unicode=True, **shape)
    return text.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Quotes by the loader's rules above, so that the text '3e-4' and the number 3e-4 stay apart."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


class _OneLine(_Dumper):
    """Everything in brackets, and breaks in texts as escapes."""


def _short_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flow = all(not isinstance(item, dict) for item in items)
    return dumper.represent_sequence(_YAML + "seq", items, flow_style=flow)


def _in_brackets(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    return dumper.represent_sequence(_YAML + "seq", items, flow_style=True)


def _escaped(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    broken = any(character in text for character in "\n\r\x85\u2028\u2029")
    return dumper.represent_scalar(_YAML + "str", text, style='"' if broken else None)


_Dumper.add_representer(list, _short_list)
_OneLine.add_representer(list, _in_brackets)
_OneLine.add_representer(str, _escaped)


def _plain(
    loader: _Loader, node: yaml.Node, name: str, key: Key, locations: dict[Key, str], above: list[yaml.Node]
) -> Any:
    """The value of a node; `above` are the nodes around it, by which an alias to itself is noticed."""
    line = node.start_mark.line + 1
    locations.setdefault(key, f"{name}:{line}")
    if len(locations) > MOST_VALUES:
        raise BadInput(f"{name}:{line}: more than {MOST_VALUES:,} values: expected a config")
    if any(node is outer for outer in above):
        raise BadInput(f"{name}:{line}: an alias that contains itself")
    above = [*above, node]
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        raise _refusal(node, f"a value of type {node.tag}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, name, (*key, i), locations, above) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        here = key_node.start_mark.line + 1
        word = _text(key_node) if isinstance(key_node, yaml.ScalarNode) else ""
        if not word.strip():
            raise BadInput(f"{name}:{here}: expected a plain word as a key")
        if word == "<<" and key_node.style is None:
            raise BadInput(
                f"{name}:{here}: YAML 1.2 has no merge keys (<<); write the keys out, or name a 'base:'"
            )
        if word in data:
            first = locations[(*key, word)].rpartition(":")[2]
            raise BadInput(f"{name}:{here}: {dotted((*key, word))}: stands twice, first in line {first}")
        locations[(*key, word)] = f"{name}:{here}"
        data[word] = _plain(loader, value_node, name, (*key, word), locations, above)
    return data


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    text, kind = _text(node), node.tag.removeprefix(_YAML)
    if kind == "str":
        return text
    if kind not in _WORDS:
        raise _refusal(node, f"a value of type {node.tag}")
    if not _WORDS[kind].match(text):  # a tag may be written before anything: !!bool maybe
        raise _refusal(node, f"{text[:40]!r} is no {kind}")
    if kind == "int" and len(text) > 40:  # Python refuses to read a number of thousands of digits
        raise _refusal(node, "a number too long to mean one")
    return int(text.replace("_", "")) if kind == "int" else loader.construct_object(node)


def _text(node: yaml.Node) -> str:
    """What stands there. Escapes can spell half of a surrogate pair, which no file could hold again."""
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal(node, "an escape that is half of a surrogate pair; write the character itself")
    return str(node.value)


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _line(message: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(message)).split())


def dotted(key: Key) -> str:
    """'data.corpora.code' for the key path ('data', 'corpora', 'code')."""
    return ".".join(str(part) for part in key)
