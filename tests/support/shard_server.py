"""A real HTTP server for shards that refuses, stalls, cuts off, redirects and fails, as tests tell it."""

import gzip
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Server:
    """Serves a folder with ranges, and misbehaves as told: `faults` are taken one a request, first first.

    503                a status; "429 after 2": with that Retry-After
    reset, stall       no answer, at once or ever
    cut, drip, flip    half the body; a byte of it and no more; a byte of it wrong
    to URL             a redirect
    hang up            the right answer, and the connection closed
    gzip, br           the body packed on its way, by something else than it says for br
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.ranges = True
        self.requests: list[str | None] = []
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        """Of each request, names in lower case."""
        self.users: dict[str, str] = {}
        """What to send as Authorization → nothing: who else asks gets 401. Empty: everyone may read."""
        self.away_after: int | None = None
        """From then on, a count of requests, it is away: 503."""
        self.turned_away = 0
        self.waits = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that give up
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        fault = self.faults.pop(0) if self.faults else ""
        if self.away_after is not None and len(self.requests) > self.away_after:
            self.turned_away += 1
            fault = "503"
        if self.users and handler.headers.get("Authorization") not in self.users:
            return handler.send_error(401)
        status, _, after = fault.partition(" after ")
        if status.isdigit():
            handler.send_response(int(status))
            if after:
                handler.send_header("Retry-After", after)
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        handler.close_connection = bool(fault) and not fault.startswith("to ")
        if fault == "reset":
            return handler.connection.shutdown(socket.SHUT_RDWR)
        if fault == "stall":
            self.waits.wait(30)
            return None
        if fault.startswith("to "):
            handler.send_response(302)
            handler.send_header("Location", fault.removeprefix("to "))
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        path = self.folder / urlsplit(handler.path).path.lstrip("/")  # of a whole URL where it is a proxy
        if not path.exists():
            return handler.send_error(404)
        data, total = path.read_bytes(), path.stat().st_size
        if asked and self.ranges:
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())  # type: ignore[union-attr]
            data = data[first : last + 1]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
        else:
            handler.send_response(200)
        if fault in ("gzip", "br"):
            data = gzip.compress(data) if fault == "gzip" else data[::-1]
            handler.send_header("Content-Encoding", fault)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if fault == "cut":
            data = data[: len(data) // 2]
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "drip":
            handler.wfile.write(data[:1])
            self.waits.wait(30)
            return None
        handler.wfile.write(data)
        return None

    def close(self) -> None:
        """End it, and whoever waits for it."""
        self.waits.set()
        self.http.shutdown()
        self.http.server_close()
