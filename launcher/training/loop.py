"""The training loop: a column that can be recited, the same for every layout.

    for each batch, with the sums of all ranks and the scale of its loss    global_batch.py
        lr       ← of this step                                             config/timetable.py
        result   ← forward, backward, reduce                                engine/engine.py
        outcome  ← what all ranks learn of it; clip and update if it stands agreement.py
        average  ← the weights, where one is kept                           engine/ema.py
        progress ← one step later                                           runs/progress.py
        tell; evaluate and save when due; stop when asked                   session.py

The loop knows no layout, no objective and no file format. Whatever observes it gets frozen records.
"""

from enum import Enum
from time import perf_counter

from launcher.distributed import stop_signals
from launcher.runs.progress import Progress
from launcher.training.session import Session
from launcher.training.step_record import Step
from launcher.training.upcoming import StoppedWaiting, StreamFailed


class End(Enum):
    """Why the loop ended; the value is the exit code."""

    FINISHED = 0
    STOPPED = stop_signals.STOPPED


def fit(session: Session, progress: Progress) -> End:
    """Train until the timetable's last step or a signal; what was trained is saved when it returns or raises
    StreamFailed."""
    timetable = session.timetable
    while progress.step < timetable.steps:
        begin = perf_counter()
        try:
            global_batch = next(session.batches)
        except StreamFailed:
            session.save(progress)
            raise
        except StoppedWaiting:
            session.save(progress)
            return End.STOPPED
        batch, sums, number = global_batch.batch, global_batch.batch_sums, progress.step + 1
        lr = timetable.lr(number)
        result = session.engine.step(batch.micro_batches, global_batch.scale, number, lr, session.judge)
        outcome = result.verdict
        if not outcome.apply:
            session.refuse(outcome)
        session.updated(number)
        progress = progress.after(batch, round(sums.tokens), round(sums.targets.sum()))
        session.tell(Step(progress, global_batch, outcome, result.grad_norm, lr, perf_counter() - begin))
        session.after_step(progress, outcome.save_due)
        if outcome.stop and progress.step < timetable.steps:
            session.save(progress)
            return End.STOPPED
    session.save(progress)
    return End.FINISHED
