"""What an edit does to the learning rate at the step where a run goes on, and the edits that do not.

The rate is a function of (step, steps, settings), so an edit moves the whole curve, also under the steps that
are made already. A cosine that has ended is met in the middle of its fall when `steps` is doubled:

    lr │╲      ╲
       │ ╲     ┊╲  jump       made under `old` up to `step`,
       │  ╲____┊ ╲______      under `new` from there on
       └───────┴────────▶ step

Pure functions of two timetables and a step; nobody is asked and nothing is written.
"""

from dataclasses import dataclass

from launcher.checkpoint.read import StoredCheckpoint
from launcher.config.timetable import Timetable
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder

LITTLE = 0.02
"""Of a learning rate: a change that nobody needs to be told."""


@dataclass(frozen=True)
class SmoothEdit:
    """Edits after which the rate goes on from where it was."""

    edits: tuple[str, ...]
    """As `headrace resume` takes them."""
    effect: str
    """In words."""


@dataclass(frozen=True)
class LrChange:
    """The learning rate around the step where a run goes on, where an edit moves it."""

    step: int
    """The last step that was made."""
    before: float
    """Its rate."""
    unedited: float
    """That of the next step, had nothing been edited."""
    after: float
    """That of the next step as it will be."""
    jumps: bool
    """Whether the curve breaks at `step`; if not, it only bends another way from there."""
    smooth: tuple[SmoothEdit, ...]
    """Of a curve that breaks: what to edit besides, so that it does not."""

    @property
    def moved(self) -> str:
        """'goes from 1.00e-04 at step 6 to 5.50e-04 at step 7'."""
        verb = "jumps" if self.jumps else "goes"
        return f"{verb} from {self.before:.2e} at step {self.step:,} to {self.after:.2e} at {self.step + 1:,}"

    @property
    def line(self) -> str:
        """All of it, for whoever starts the run."""
        said = f"the edit moves the learning rate: it {self.moved}; unedited it would be {self.unedited:.2e}"
        if not self.jumps:
            return said
        if not self.smooth:
            return f"{said}; from 0 every rate is a jump: set optimizer.lr as low as it may begin again"
        offers = " or ".join(f"{' '.join(one.edits)} ({one.effect})" for one in self.smooth)
        return f"{said}. Not to jump, edit besides: {offers}"


def lr_change(step: int, old: Timetable, new: Timetable) -> LrChange | None:
    """What becomes of the rate when a run that made `step` under `old` goes on under `new`. None where the
    next step's is what it would have been, or little else."""
    before, unedited, after = old.lr(step), old.lr(step + 1), new.lr(step + 1)
    if step == 0 or _alike(unedited, after):
        return None
    jumps = not _alike(before, new.lr(step))
    return LrChange(step, before, unedited, after, jumps, smooth_edits(step, before, new) if jumps else ())


def lr_change_from(found: StoredCheckpoint | None, run: RunFolder, new: Timetable) -> LrChange | None:
    """The same where a run goes on from one of its checkpoints, which the attempt that saved it has made
    under its own config."""
    if found is None:
        return None
    history = Progress.from_json(found.progress).history
    return lr_change(found.step, run.attempt_config(found.attempt).timetable(history), new)


def smooth_edits(step: int, lr: float, new: Timetable) -> tuple[SmoothEdit, ...]:
    """Edits besides `new` whose rate at `step` is `lr`: constant from there, or a decay to the last step."""
    if not lr:  # a rate of 0 learns nothing, and no config may ask for it
        return ()
    rate = f"optimizer.lr={lr:.6g}"
    constant = SmoothEdit(("optimizer.schedule=constant", rate, "optimizer.warmup=0"), f"it stays {lr:.2e}")
    left = new.steps - step
    if left < 2:
        return (constant,)
    end = f"a new decay from here, to {new.optimizer.min_lr * lr:.2e} at step {new.steps:,}"
    decay = ("optimizer.schedule=wsd", rate, "optimizer.warmup=0", f"optimizer.decay={left}")
    return (constant, SmoothEdit(decay, end))


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= LITTLE * max(one, other)
