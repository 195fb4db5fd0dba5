"""What is done where T grows beyond the longest that a run planned when it began, in words."""

from data.plan.plan import Plan


def longer_rows(plan: Plan) -> str | None:
    """One line; None where rows are no longer than planned. Blocks stay those of the start, so several are
    opened as one (data/stream/joining.py)."""
    if plan.slots == 1:
        return None
    return (
        f"sequence_length {plan.length:,} is above {plan.max_length:,}, the longest that the run planned "
        f"when it began: {plan.slots} blocks are opened as one, which takes as many times the memory"
    )
