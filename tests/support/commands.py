"""`headrace` for tests of what it prints: real exit codes and output, without seconds of imports a command.

A server process imports everything once; each command then runs in a fork of it, with its own arguments,
folder, environment and output, through the same `launcher.cli.main` that the installed command calls.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.support.sources import ROOT

TIMEOUT = 60


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Commands:
    """The server, from construction to `close`."""

    def __init__(self) -> None:
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=plain | quiet,
        )

    def run(self, *arguments: object, cwd: Path = ROOT, **variables: str) -> Done:
        """`headrace ARGUMENTS…` in a folder, with further environment variables."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = {"arguments": [str(a) for a in arguments], "cwd": str(cwd), "variables": variables}
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        return Done(**json.loads(self._server.stdout.readline()))

    def ok(self, *arguments: object, **options: object) -> str:
        """stdout of a command that must succeed."""
        done = self.run(*arguments, **options)  # type: ignore[arg-type]
        assert done.code == 0, done.err
        return done.out

    def refused(self, *arguments: object, **options: object) -> str:
        """The one line with which a command must refuse: exit code 2, nothing else on stderr."""
        done = self.run(*arguments, **options)  # type: ignore[arg-type]
        assert done.code == 2, (done.code, done.out[-2000:], done.err[-2000:])
        assert done.err.startswith("headrace: "), done.err
        assert done.err.count("\n") == 1, done.err
        return done.err.strip()

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


def _command(asked: dict) -> dict:
    """One command in a fork. Exit code 99: it hung."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_main(asked))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return {
            "code": 99 if code == -signal.SIGALRM else code,
            "out": out.read().decode(errors="replace"),
            "err": err.read().decode(errors="replace"),
        }


def _main(asked: dict) -> int:
    from launcher.cli.main import main

    signal.alarm(TIMEOUT)
    os.chdir(asked["cwd"])
    os.environ.update(asked["variables"])
    sys.argv = ["headrace", *asked["arguments"]]
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    """Import what commands import inside their bodies, then answer requests until stdin ends."""
    import launcher.cli.app
    import launcher.engine.deepspeed.start
    import launcher.inference.generate
    import launcher.preflight.check
    import launcher.reporting.rows
    import launcher.training.train  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_command(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
