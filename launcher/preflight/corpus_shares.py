"""What share of the rows each corpus is asked for, and what the whole run gives it: both exact."""

from typing import Any

from data.plan.asked_rows import LEAST_SHARE, AskedRows
from data.plan.plan import History
from data.plan.segments import PlanSegments
from launcher import output


def shares(history: History, row: int, end: int) -> dict[str, dict[str, Any]]:
    """Corpus → `share`, asked for at the row where the start would go on; `share_at_end`, at the row after
    the last; `asked` and `achieved`, the shares of all rows of the run that it is asked for and gets;
    `rows`."""
    segments = PlanSegments(history)
    at = segments.last.corpus_mix.asked
    rows, asked = segments.rows_of(0, end), segments.asked_of(0, end)
    return {
        corpus.name: {
            "share": now,
            "share_at_end": last,
            "asked": asked[corpus.name] / end,
            "achieved": rows[corpus.name] / end,
            "rows": rows[corpus.name],
        }
        for corpus, now, last in zip(history.newest.corpora, at.shares(row), at.shares(end))
    }


def show(corpora: list[dict[str, Any]]) -> None:
    """Two tables: what the corpora are and give; how they are drawn from."""
    keys = ["name", "share", "share_at_end", "achieved", "coefficient", "documents", "tokens", "epochs"]
    titles = [
        "corpus",
        "share",
        "at the end",
        "of all rows",
        "coefficient",
        "documents",
        "≈ tokens",
        "≈ epochs",
    ]
    output.table(titles, [[corpus[key] for key in keys] for corpus in corpora])
    output.say("")
    keys = ["name", "blocks", "streams", "encoded", "padding"]
    titles = ["corpus", "blocks", "streams", "each block encoded by", "≈ padding"]
    output.table(titles, [[corpus[key] for key in keys] for corpus in corpora])


def uncounted(history: History) -> list[str]:
    """A line for each corpus of which a weight is too small to count."""
    plan = history.newest
    asked = AskedRows([corpus.weight for corpus in plan.corpora])
    lines = []
    for number, corpus in enumerate(plan.corpora):
        small = [row for row in asked.knots if corpus.weight.at(row) > 0 and not asked.shares(row)[number]]
        if small:
            lines.append(
                f"data.corpora.{corpus.name}.weight: is less than {LEAST_SHARE:g} of all weights at row "
                f"{small[0]:,}, and counts as 0 there"
            )
    return lines
