"""Rank 0's part of a meeting (meeting.py): an open port, and a hello of every other rank."""

import errno
import os
import resource
import selectors
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data.errors import BadInput
from launcher.distributed.waiting import (
    LONGEST_LINE,
    Waiting,
    about,
    address,
    job,
    message,
    ranks_in_words,
    same,
    send,
)
from launcher.distributed.world import World, node_names

BACKLOG = 2048
"""Ranks that may knock at one moment."""


def listen(port: int, waiting: Waiting) -> socket.socket:
    """Rank 0's port, open. A port that another has may be that of a start that is just ending."""
    while True:
        try:
            return _server(port)
        except PermissionError:
            raise BadInput(
                f"MASTER_PORT={port}: this user may not listen on it; name a port above 1023"
            ) from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BadInput(f"MASTER_PORT={port}: cannot be listened on: {error.strerror}") from None
        taken = f"port {port} of {socket.gethostname()}, which another process has taken"
        if waiting.left <= 0:
            raise waiting.over(f"{taken}, did not become free", "; MASTER_PORT names another one")
        waiting.tell(f"{taken} (MASTER_PORT names another)")
        time.sleep(0.5)


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def foreign(host: str) -> str | None:
    """Why the others will not find rank 0 on this machine under this name; None where they may."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host} does not resolve here: {error.strerror}"
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind((place[0], 0, *place[2:]))
            except OSError:
                continue
            return None
    return f"{host} is not an address of this machine, where rank 0 is"


@dataclass
class _Guest:
    """A connection to rank 0, and what came over it."""

    socket: socket.socket
    received: bytes = b""
    hello: Mapping[str, Any] | None = None


class Host:
    """Rank 0's part: collects a hello of every other rank."""

    def __init__(self, world: World, listener: socket.socket, waiting: Waiting) -> None:
        self._world, self._waiting, self._listener = world, waiting, listener
        self._warning = foreign(address(world)[0])
        self._guests: dict[int, _Guest] = {}
        """By rank."""
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until all are there. Whoever came hears how it ended."""
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # a connection for each rank
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, self._world.size + 256)), most))
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while self.missing:
                if self._waiting.left <= 0:
                    gone = f"{ranks_in_words(self.missing)} did not come to {self._waiting.place}"
                    raise self._waiting.over(gone, f"{self._empty_nodes()}{self._why()}")
                if self._waiting.due:
                    self._waiting.tell(self._sought())
                for key, _ in self._selector.select(timeout=0.25):
                    self._welcome() if key.data is None else self._listen_to(key.data)
            self._tell_all({"go": True})
        except BadInput as error:
            self._tell_all({"line": str(error), "code": error.code})
            raise
        finally:
            for guest in self._connected():
                self._drop(guest)
            self._selector.close()
            self._listener.setblocking(True)

    @property
    def missing(self) -> list[int]:
        """Ranks that are not there now."""
        return [rank for rank in range(1, self._world.size) if rank not in self._guests]

    def _sought(self) -> str:
        missing = self.missing
        text = f"{len(missing)} of {self._world.size} ranks at {self._waiting.place}: "
        return f"{text}{ranks_in_words(missing)}{self._empty_nodes()}{self._why()}"

    def _why(self) -> str:
        return f" ({self._warning})" if self._warning else ""

    def _empty_nodes(self) -> str:
        """The nodes of the Slurm job from which nobody came."""
        hosts = {str(guest.hello["host"]) for guest in self._guests.values() if guest.hello}
        seen = {host.split(".")[0] for host in {*hosts, socket.gethostname()}}
        nodes = node_names(self._world.job.nodes) if self._world.job else []
        empty = [node for node in nodes if node.split(".")[0] not in seen and node != "localhost"]
        return f"; nobody from {', '.join(empty)}" if empty else ""

    def _connected(self) -> list[_Guest]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has left before it was greeted
            return
        connection.setblocking(False)
        guest = _Guest(connection)
        self._selector.register(connection, selectors.EVENT_READ, guest)
        send(connection, about(self._world) | {"seconds": max(self._waiting.left, 0.0)})

    def _listen_to(self, guest: _Guest) -> None:
        try:
            content = guest.socket.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        guest.received += content
        if not content or len(guest.received) > LONGEST_LINE:
            self._drop(guest)
        elif guest.hello is None and b"\n" in guest.received:
            hello = message(guest.received)
            if hello is None or hello.get("job") != job(self._world):
                self._drop(guest)  # a port scanner, or a rank of another job: it has read the greeting
            else:
                self._admit(guest, hello)

    def _admit(self, guest: _Guest, hello: Mapping[str, Any]) -> None:
        rank, size = hello["rank"], hello["size"]
        who = f"process {hello['pid']} on {hello['host']}"
        if size != self._world.size:
            raise BadInput(
                f"{self._waiting.me}: {who} was told that there are {size} ranks; all must be told the same "
                "number (WORLD_SIZE, SLURM_NTASKS)"
            )
        other = self._guests.get(rank)
        if rank == 0 or (other is not None and other.hello is not None and not same(other.hello, hello)):
            held = f"process {os.getpid()} on {socket.gethostname()}"
            if other is not None and other.hello is not None:
                held = f"process {other.hello['pid']} on {other.hello['host']}"
            raise BadInput(f"rank {rank} came twice, as {held} and as {who}: each needs a RANK of its own")
        if other is not None:
            self._drop(other)
        guest.hello = hello
        self._guests[rank] = guest

    def _drop(self, guest: _Guest) -> None:
        if guest.socket.fileno() < 0:  # dropped before, in the same round
            return
        self._selector.unregister(guest.socket)
        guest.socket.close()
        if guest.hello is not None and self._guests.get(guest.hello["rank"]) is guest:
            del self._guests[guest.hello["rank"]]

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        for guest in self._connected():
            send(guest.socket, message)
