"""The list of objectives. An objective's id is its place here and stands in rows, checkpoints and metrics: a
new one goes to the end, none is ever moved or taken out. To add one: its file, one line here, its test.
"""

from objectives.causal import Causal
from objectives.example import Objective
from objectives.fim import Fim
from objectives.mlm import Mlm
from objectives.nsp import Nsp
from objectives.prefix import Prefix
from objectives.reverse import Reverse
from objectives.settings import nearest
from objectives.span import Span

OBJECTIVES: tuple[type[Objective], ...] = (Causal, Reverse, Mlm, Nsp, Prefix, Span, Fim)

NAMES: tuple[str, ...] = tuple(objective.name for objective in OBJECTIVES)

HEADS: tuple[str, ...] = tuple(objective.head for objective in OBJECTIVES)
"""The output head of each id: 'vocabulary', or 'binary' for two classes."""


def objective_id(name: str) -> int:
    """The id of an objective; ValueError naming the known ones."""
    if name not in NAMES:
        raise ValueError(f"{name}: no such objective{nearest(name, NAMES)}")
    return NAMES.index(name)


def objective_class(name: str) -> type[Objective]:
    """The settings class of an objective; ValueError naming the known ones."""
    return OBJECTIVES[objective_id(name)]
