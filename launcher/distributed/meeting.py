"""The ranks meet before torch connects them, so that whoever waits can say for whom.

    rank 0     listens at the rendezvous, greets whoever comes, and waits for a hello of every rank
    others     look for rank 0 until they are greeted, send their hello, and wait for the verdict
    verdict    `go` once all are there; else the line that ends the start, the same on every rank that came

torch's own store waits in C++: ten minutes without a word, then a traceback that names nobody, and on a port
where something else listens it waits for ever. Here each message is one line of JSON over TCP. A rank that
dies while it waits closes its connection and is missing again. When all have met, rank 0's open port is
handed to torch's store, so nobody can take it in between.

Where whoever started the ranks keeps a store for them (a file on one machine, torchrun's agent), they meet in
that instead: each puts its mark there and looks for those of the others.
"""

import json
import socket
import time

from torch.distributed import Store

from data.errors import BadInput
from launcher.distributed.collectives import ToldByOtherRank
from launcher.distributed.meeting_host import Host, listen
from launcher.distributed.waiting import (
    LONGEST_LINE,
    Say,
    Waiting,
    about,
    address,
    job,
    message,
    ranks_in_words,
    say,
    send,
)
from launcher.distributed.world import World

CONNECT = 3.0
"""Seconds of one try to reach rank 0: a packet that was lost is sent again after one."""
GREETING = 5.0
"""Seconds that rank 0 takes at most to greet; what is silent for longer is something else."""
FAREWELL = 30.0
"""Seconds beyond rank 0's own time-out that a rank waits for its verdict."""


def meet(world: World, say: Say = say) -> socket.socket | None:
    """Wait for all ranks of a world with a tcp:// rendezvous; rank 0's listening socket, None on the others.
    PassingTrouble where some do not come, BadInput where what they were told contradicts itself."""
    host, port = address(world)
    waiting = Waiting(world, say, f"{host}:{port}")
    if world.rank > 0:
        _seek(world, host, port, waiting)
        return None
    listener = listen(port, waiting)
    try:
        Host(world, listener, waiting).run()
    except BaseException:
        listener.close()
        raise
    return listener


def wait_in_store(world: World, store: Store, say: Say = say) -> None:
    """Wait for all ranks in a store that is there already. PassingTrouble where some do not come."""
    waiting = Waiting(world, say, world.rendezvous)
    store.set(_mark(world.rank), socket.gethostname())
    pause = 0.005

    def missing() -> str:
        return ranks_in_words(rank for rank in range(world.size) if not store.check([_mark(rank)]))

    while not store.check([_mark(rank) for rank in range(world.size)]):
        if waiting.left <= 0:
            raise waiting.over(f"{missing()} did not come")
        if waiting.due:
            waiting.tell(missing())
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _mark(rank: int) -> str:
    return f"headrace/{rank}"


def _seek(world: World, host: str, port: int, waiting: Waiting) -> None:
    """The part of every other rank: look for rank 0 until it is greeted, then obey its verdict."""
    sought = f"rank 0 at {waiting.place}"
    pause = 0.05
    while True:
        try:
            with socket.create_connection((host, port), timeout=CONNECT) as link:
                verdict = _ask(world, link, waiting)
        except socket.gaierror as error:
            verdict = f"{host} does not resolve: {error.strerror}"
        except UnicodeError:
            raise BadInput(f"MASTER_ADDR={host!r}: expected the name or the address of a machine") from None
        except OSError as error:
            verdict = str(error.strerror or error)
        if verdict is None:
            return
        if waiting.left <= 0:
            raise waiting.over(f"{sought} did not answer", f" ({verdict})")
        waiting.tell(f"{sought} ({verdict})")
        time.sleep(min(pause, max(waiting.left, 0.01)))
        pause = min(2 * pause, 1.0)


def _ask(world: World, link: socket.socket, waiting: Waiting) -> str | None:
    """None: go. Why this was not rank 0, or it has left. OSError where the connection breaks; what ends the
    start on all ranks is raised."""
    link.settimeout(GREETING)
    with link.makefile("rb") as lines:
        try:
            greeting = message(lines.readline(LONGEST_LINE))
        except TimeoutError:
            greeting = None
        if greeting is None:
            return "what listens there is not rank 0 of headrace"
        if greeting["job"] != job(world):
            who = f"process {greeting['pid']} on {greeting['host']}"
            return f"there is {who}, of another job or start ({greeting['job'] or 'none of Slurm'})"
        send(link, about(world))
        link.settimeout(greeting["seconds"] + FAREWELL)
        line = lines.readline()
    if not line:
        return "it was there and has left"
    verdict = json.loads(line)
    if verdict.get("go"):
        return None
    raise ToldByOtherRank(verdict["line"], verdict["code"])
