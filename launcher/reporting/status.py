"""Where a run stands, from its folder alone: it may be running elsewhere, finished, stopped or dead."""

import shlex
import time
from collections import deque
from typing import Any

from launcher import output
from launcher.checkpoint.retention import steps_in
from launcher.output import clock, number
from launcher.reporting.next_command import activation, further_command, further_commands, resume_command
from launcher.runs.lineage import merged, steps
from launcher.runs.plan_history import timetable_of
from launcher.runs.run_folder import RunFolder
from launcher.runs.trunk import Trunk, trunk_of
from launcher.runs.writer_lock import BEAT_SECONDS
from objectives.quantity import written

WEIGHTS_ALONE = "weights alone"
"""The state of what `headrace checkpoint average` has written: no run, though it is read as one."""


def state(run: RunFolder) -> dict[str, Any]:
    """JSON-able facts. `state`: training, not started, branched (not started yet), died (it wrote no end),
    how it stopped, or weights alone (of an average)."""
    attempts = run.attempts()
    ledger = [line for line in run.ledger() if attempts and line["attempt"] == attempts[-1]]
    timetable = timetable_of(run)
    last_step, asked = timetable.steps, timetable.asked
    newest = deque(steps(merged(run)), maxlen=1)
    last: dict[str, Any] = newest[0] if newest else {}
    writer = run.writer(watch_seconds=2 * BEAT_SECONDS)
    saved, weights = steps_in(run.checkpoints), steps_in(run.checkpoints, "weights")
    word, trunk = _word(writer, ledger, bool(attempts)), trunk_of(run)
    done = word == "finished" or (word == "branched" and last_step <= max(saved, default=0))
    if not attempts and weights and not saved:
        word = WEIGHTS_ALONE
    return {
        "run": str(run.path),
        "trunk": trunk.to_json() if trunk else None,
        "state": word,
        "writer": writer,
        "attempts": len(attempts),
        "step": last.get("step", 0),
        "steps": last_step,
        "ends_at": written(asked),
        "loss": last.get("loss"),
        "tokens": last.get("tokens", 0),
        "tokens_per_second": last.get("tokens_per_second"),
        "seconds_since": round(time.time() - last["time"], 1) if last else None,
        "seconds_left": (last_step - last["step"]) * last["step_seconds"]
        if last and last["step_seconds"]
        else None,
        "checkpoints": saved,
        "last_event": ledger[-1] if ledger else None,
        "resume": _resume(run, word, done),
        "go_on": further_commands(run) if done else [resume_command(run)],
    }


def _resume(run: RunFolder, word: str, done: bool) -> str | None:
    """The command that goes on; None where nothing can."""
    if word == WEIGHTS_ALONE:
        return None
    return further_command(run) if done else resume_command(run)


def _word(writer: str | None, ledger: list[dict[str, Any]], started: bool) -> str:
    if writer:
        return "training"
    if not started:
        return "not started"
    last = ledger[-1]
    return str(last.get("reason", "stopped")) if last["event"] == "stop" else "died"


def show(facts: dict[str, Any]) -> None:
    """The facts as lines for the eye."""
    output.say(f"{facts['run']}: {facts['state']}" + (f" ({facts['writer']})" if facts["writer"] else ""))
    if facts["trunk"]:
        output.say(f"branched from {Trunk.from_json(facts['trunk'])}")
    if facts["state"] == WEIGHTS_ALONE:
        output.say("the mean of a run's weights at several steps: it has no steps of its own")
        for line in next_commands(facts):
            output.say(line)
        return
    asked = f" ({facts['ends_at']})" if isinstance(facts["ends_at"], str) else ""
    output.say(
        f"step {facts['step']:,} of {facts['steps']:,}{asked}, "
        f"{facts['tokens']:,} tokens, loss {number(facts['loss'])}"
    )
    if facts["writer"] and facts["seconds_since"] is not None:
        output.say(f"last step {facts['seconds_since']:.0f} s ago, {clock(facts['seconds_left'])} left")
    saved = ", ".join(f"{step:,}" for step in facts["checkpoints"][-5:]) or "none"
    if not facts["writer"] and (facts["last_event"] or {}).get("error"):
        output.say(f"it ended with: {facts['last_event']['error']}")
    output.say(f"attempts {facts['attempts']}, checkpoints: {saved}")
    if activate := activation():
        output.say(f"first: {activate}")
    for line in next_commands(facts):
        output.say(line)


def next_commands(facts: dict[str, Any]) -> list[str]:
    """What to type next, by where the run stands."""
    run = shlex.quote(facts["run"])
    if facts["writer"]:
        return [f"look on with: headrace metrics {run} --last 10"]
    if facts["state"] == WEIGHTS_ALONE:
        return [f'try it with: headrace generate {run} "The "', f"begin a run from it with: init_from={run}"]
    on = [f"go on with: {command}" for command in facts["go_on"]]
    if facts["state"] == "finished":
        return [f'try it with: headrace generate {run} "The "', *on]
    return on
