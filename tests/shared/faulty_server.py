"""A server that takes GET and PUT, and can be told to fail in all ways that servers fail."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Lie = Callable[[str, bytes], bytes]


class FaultyServer:
    """``mode`` is what it does from now on; ``later`` changes it once a request of that kind was seen."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.mode = "well"
        self.later: tuple[str, str, str] | None = None
        """Method, kind and mode: at the first such request."""
        self.lie: Lie = lambda key, data: data
        self.seen: list[str] = []
        self.over = threading.Event()
        self._server = _Http(("127.0.0.1", 0), _Handler)
        self._server.faulty = self
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._server.server_port}/cache"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def now(self, method: str, path: str) -> str:
        with self._lock:
            self.seen.append(f"{method} {path}")
            if self.later is not None and method == self.later[0] and f"/{self.later[1]}/" in path:
                self.mode, self.later = self.later[2], None
        if self.mode == "killed":
            self.kill()
        return self.mode

    def kill(self) -> None:
        """No connection is taken any more."""
        self.mode = "killed"
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._server.socket.close()

    def stop(self) -> None:
        self.over.set()
        if self.mode != "killed":
            self._server.shutdown()
            self._server.server_close()

    def of_kind(self, kind: str) -> list[str]:
        return [key for key in self.entries if f"/v1/{kind}/" in key]

    def requests(self, method: str, kind: str) -> int:
        return sum(line.startswith(f"{method} ") and f"/v1/{kind}/" in line for line in self.seen)


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    faulty: FaultyServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        faulty = self.server.faulty
        if self._fails(faulty.now("GET", self.path), b""):
            return
        data = faulty.entries.get(self.path)
        if data is None:
            self._answer(404, b"")
        elif faulty.mode == "lying":
            self._answer(200, faulty.lie(self.path, data))
        elif faulty.mode == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        elif faulty.mode == "dripping":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for byte in data:
                self.wfile.write(bytes((byte,)))
                self.wfile.flush()
                if faulty.over.wait(0.05):
                    return
        else:
            self._answer(200, data)

    def do_PUT(self) -> None:
        faulty = self.server.faulty
        mode = faulty.now("PUT", self.path)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails(mode, data):
            return
        if mode in {"full", "read-only"}:
            self._answer(507 if mode == "full" else 405, b"")
            return
        faulty.entries[self.path] = data
        self._answer(201, b"")

    def _fails(self, mode: str, data: bytes) -> bool:
        if mode == "slow":
            self.server.faulty.over.wait(60)
        if mode in {"killed", "resetting", "slow"}:
            self._hang_up()
            return True
        if mode.isdigit():
            self._answer(int(mode), b"no")
            return True
        return False

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is printed."""


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    try:
        yield server
    finally:
        server.stop()
