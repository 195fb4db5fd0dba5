"""The list of objectives. An objective's id is its place here and stands in rows, checkpoints and metrics: a
new one goes to the end, none is ever moved or taken out. To add one: its file, one line here, its test
(docs/adding-an-objective.md).
"""

from pkgutil import resolve_name

from objectives.objective import Objective
from objectives.settings import suggestion

_LISTED = (
    "causal:Causal",
    "reverse:Reverse",
    "mlm:Mlm",
    "nsp:Nsp",
    "prefix:Prefix",
    "span:Span",
    "fim:Fim",
)
"""MODULE:CLASS of each, so that one line is all that a new one needs here."""

OBJECTIVES: tuple[type[Objective], ...] = tuple(resolve_name(f"objectives.{line}") for line in _LISTED)

NAMES: tuple[str, ...] = tuple(objective.name for objective in OBJECTIVES)

HEADS: tuple[str, ...] = tuple(objective.head for objective in OBJECTIVES)
"""The output head of each id: 'vocabulary', or 'binary' for two classes."""


def objective_id(name: str) -> int:
    """The id of an objective; ValueError naming the known ones."""
    if name not in NAMES:
        raise ValueError(f"{name}: no such objective{suggestion(name, NAMES)}")
    return NAMES.index(name)


def objective_class(name: str) -> type[Objective]:
    """The settings class of an objective; ValueError naming the known ones."""
    return OBJECTIVES[objective_id(name)]
