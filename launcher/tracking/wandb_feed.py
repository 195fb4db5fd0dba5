"""Weights & Biases, fed from metrics.jsonl by a process of its own.

    training process ──▶ metrics.jsonl ──▶ feeder process ──▶ wandb
            └─ a pipe that is never written to: its end tells the feeder that training is over ─┘

The feeder may be slow, blocked by a dead network, or dead itself: the training process neither waits for it
nor hears of it, except for a bounded farewell at the end. What did not reach wandb is not lost, since the
file is the truth: the next feeder, or `headrace wandb RUN`, goes on after the last step that wandb has. So
a run has one id over all its restarts (runs/NAME/wandb/id), and feeding twice adds nothing. Steps that are
trained again under the same config have the same values and are passed over. Trained again under another one
they have not, and wandb cannot take back what it has: then its history goes on under a new id and name (ID-2
and NAME-2, then -3), which begins with the run's first step, and the abandoned one stays as it was. A branch
has an id of its own, under which its trunk's steps come first.

wandb is imported in this file alone, and only in the feeder. Its key stays in wandb's own environment.
"""

import json
import netrc
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from data.durable import read_lines, write_once
from data.errors import BadInput
from launcher.config import compare, run_config
from launcher.config.run_config import Config
from launcher.config.yaml_reader import Key
from launcher.distributed.respawn import command
from launcher.runs.lineage import first_line, merged
from launcher.runs.run_folder import RunFolder, open_run
from launcher.runs.trunk import trunk_of

FAREWELL_SECONDS = 8.0
"""How long the feeder has, once training is over, to hand on what is left."""
POLL_SECONDS = 1.0
SAME_HISTORY: tuple[Key, ...] = (
    *compare.WATCHING,
    *(("run",), ("checkpoint",), ("layout",)),
    *(("data", "cache"), ("eval", "samples")),
)
"""Keys on which a step's values do not depend, but for rounding and where dropout falls: those that only
watch a run; and where it lies, what is saved of it, how it is spread, how patiently it reads, and what it
writes for the eye."""
INIT_SECONDS = 30.0
"""How long wandb's server may take to answer at the start; without an answer the feeder works offline."""


class Feed:
    """The feeder of one attempt, as its training process sees it: started, and at the end let go."""

    def __init__(self, run: RunFolder, attempt: int, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command("launcher.tracking.wandb_feed", str(run.path), str(attempt)),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Ctrl-C at the terminal is for the training process; the feeder ends when that one does.
                start_new_session=True,
            )

    def close(self) -> None:
        """Tell the feeder that training is over, and wait a bounded time for it to finish."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(FAREWELL_SECONDS + 2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def sync(run: RunFolder) -> int:
    """Send what wandb does not have yet of a run's history; returns the number of steps sent.

    BadInput without a key, or when the server does not answer or refuses it.
    """
    if not _has_key():
        raise BadInput("wandb: no key; set WANDB_API_KEY or run 'wandb login'")
    target = _Target(run, "online", fall_back=False)
    steps = {target.send(line) for line in merged(run, target.last_step)}
    target.finish()
    return len(steps)


def run_id(run: RunFolder) -> str:
    """The run's first id at wandb, made at the first call and the same ever after."""
    path = run.path / "wandb" / "id"
    if not path.exists():
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise BadInput(f"{path}: cannot be written: {error.strerror}") from error
        write_once(path, secrets.token_hex(8).encode())
    return path.read_text()


def history_number(run: RunFolder) -> int:
    """1, and one more for each attempt whose lineage is not what wandb may have been sent before: it trained
    steps again, or took up an abandoned future, under another config."""
    number, reached = 1, 0
    histories: dict[int | None, list[tuple[int, dict[Key, Any]]]] = {None: []}
    sent = histories[None]
    for attempt in run.attempts():
        first = first_line(run, attempt)
        # (step, config) of its lineage, oldest first: what was trained with after which step.
        history = [part for part in histories.get(first["parent"], []) if part[0] < first["step"]]
        config = _effective(run.attempt_config(attempt))
        if not history or history[-1][1] != config:
            history.append((first["step"], config))
        if [part for part in history if part[0] < reached] != [part for part in sent if part[0] < reached]:
            number, reached = number + 1, 0
        told = (line["step"] for line in read_lines(run.attempt_path(attempt) / "metrics.jsonl", "step"))
        reached = max([reached, first["step"], *told])
        histories[attempt] = sent = history
    return number


def _effective(config: Config) -> dict[Key, Any]:
    """What a step's values depend on."""
    values = compare.flat(run_config.plain(config))
    return {key: value for key, value in values.items() if not compare.lies_in(key, SAME_HISTORY)}


def _host() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlparse(_host()).hostname or "") is not None
    # None there, unreadable, malformed, not even text, or no home to look in: there is no key in it.
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError, RuntimeError):
        return False


class _Target:
    """wandb's side: one run, opened again under the id of its newest history."""

    def __init__(self, run: RunFolder, mode: str, fall_back: bool = True) -> None:
        """fall_back: work offline where the server cannot be had; otherwise that is BadInput."""
        import wandb  # only the feeder pays for this import

        config = run.current_config()
        number, trunk = history_number(run), trunk_of(run)
        suffix = f"-{number}" if number > 1 else ""
        self._first_id = run_id(run)
        self._id = self._first_id + suffix
        self.mode = mode if mode != "online" or _has_key() else "offline"
        if self.mode != mode:
            print("wandb: no key, so offline; later: headrace wandb RUN", flush=True)
        options: dict[str, Any] = {
            "project": config.wandb.project,
            "entity": config.wandb.entity,
            "name": config.run.name + suffix,
            "id": self._id,
            "resume": "allow",
            "dir": str(run.path),
            "config": run_config.plain(config) | ({"trunk": trunk.to_json()} if trunk else {}),
            # All branches of one trunk together, however deep.
            "group": trunk.first.name if trunk else None,
            "notes": f"branched from {trunk}" if trunk else None,
            "settings": wandb.Settings(
                console="off", init_timeout=INIT_SECONDS, save_code=False, disable_git=True, silent=True
            ),
        }
        try:
            self._run = wandb.init(mode=self.mode, **options)  # type: ignore[arg-type]
        except wandb.errors.Error as error:
            if not fall_back:
                raise BadInput(
                    f"wandb: {_host()}: {' '.join(str(error).split())}; nothing was sent"
                ) from error
            wandb.teardown()  # its service still holds the run's id
            print(f"wandb: {error}; going on offline; later: headrace wandb RUN", flush=True)
            self.mode = "offline"
            self._run = wandb.init(mode="offline", **options)
        self._table = wandb.Table
        self._mark = run.path / "wandb" / "fed.json"
        self.last_step = self._run.step - 1 if self.mode == "online" else self._marked()

    def _marked(self) -> int:
        mark = json.loads(self._mark.read_text()) if self._mark.exists() else {"step": -1}
        # Marks without an id are of before a run could have several.
        return int(mark["step"]) if mark.get("id", self._first_id) == self._id else -1

    def send(self, line: dict[str, Any]) -> int:
        """Hand one line to wandb under its step, which is returned."""
        step = int(line["step"])
        values = flat({key: value for key, value in line.items() if key not in ("step", "samples")})
        if "samples" in line:
            rows = [[sample["prompt"], sample["text"]] for sample in line["samples"]]
            values["samples"] = self._table(columns=["prompt", "text"], data=rows)
        self._run.log(values, step=step)
        self.last_step = step
        return step

    def mark(self) -> None:
        """Remember how far an offline feeder came."""
        temporary = self._mark.with_suffix(".new")
        temporary.write_text(json.dumps({"id": self._id, "step": self.last_step}))
        temporary.replace(self._mark)

    def finish(self) -> None:
        """Hand over what wandb still holds."""
        self._run.finish()


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested names joined by '/', values that are missing skipped."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{above}{key}/"))
        elif value is not None:
            out[above + key] = value
    return out


def follow(path: Path, over: threading.Event) -> Iterator[dict[str, Any] | None]:
    """The lines of a growing file as they are finished, None when there is nothing new; ends after `over`."""
    position, rest = 0, b""
    while True:
        last = over.is_set()
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                content = file.read()
            position += len(content)
            *lines, rest = (rest + content).split(b"\n")
            yield from (json.loads(line) for line in lines)
        yield None
        if last:
            return
        over.wait(POLL_SECONDS)


def _watch_pipe(over: threading.Event) -> None:
    """Wait for the training process to close the pipe or die; then end, if need be by force."""
    while os.read(0, 1):
        pass
    over.set()
    time.sleep(FAREWELL_SECONDS)
    print("wandb: not everything was handed over in time; later: headrace wandb RUN", flush=True)
    os._exit(0)


def main() -> None:
    """The feeder process: RUN and the attempt to follow on the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # training comes first
    over = threading.Event()
    threading.Thread(target=_watch_pipe, args=(over,), daemon=True).start()
    run, attempt = open_run(sys.argv[1]), int(sys.argv[2])
    try:
        target = _Target(run, run.current_config().wandb.mode)
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # no home, or a .netrc that is no text
        print(f"wandb: cannot start: {error}; later: headrace wandb RUN", flush=True)
        sys.exit(2)
    for line in merged(run, target.last_step):
        if line["attempt"] != attempt:
            target.send(line)
    seen = target.last_step
    for new in follow(run.attempt_path(attempt) / "metrics.jsonl", over):
        if new is None:
            target.mark()
        elif new["step"] > seen:
            target.send(new)
    target.finish()


if __name__ == "__main__":
    main()
