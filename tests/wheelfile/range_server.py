"""A server on loopback that does ranges well, badly, or not at all, and counts."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """``mode`` says how it behaves; see :meth:`answer`."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.mode = "good"
        self.after = 0
        """How many requests are answered well before the mode applies."""
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.url = ""

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'

    @property
    def ranges(self) -> list[str]:
        return [headers["Range"] for _, headers in self.seen if "Range" in headers]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.seen.append((request.path, dict(request.headers)))
        mode = self.mode if len(self.seen) > self.after else "good"
        whole = self.content
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if mode in {"403", "404", "500"}:
            return self.reply(request, int(mode), b"no")
        if mode == "auth":
            wanted = "Basic " + base64.b64encode(b"me:secret").decode()
            if request.headers.get("Authorization") != wanted:
                return self.reply(request, 401, b"no")
        if mode == "redirect" and not request.path.startswith("/there/"):
            return self.reply(request, 302, b"", {"Location": f"/there{request.path}"})
        if mode == "stall":
            time.sleep(3)
            return None
        if mode == "multipart" and asked:
            return self.reply(request, 206, b"--x\r\n", {"Content-Type": "multipart/byteranges; boundary=x"})
        if mode == "416" and asked:
            return self.reply(request, 416, b"")
        headers = {"ETag": self.tag}
        if mode == "weak":
            headers = {"ETag": f"W/{self.tag}", "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}
        if mode == "no validator":
            headers = {}
        stale = request.headers.get("If-Range", self.tag) not in {self.tag, headers.get("Last-Modified")}
        if not asked or mode == "whole" or (stale and mode != "ignores If-Range"):
            return self.reply(
                request, 200, whole[: 5000 if mode == "cut whole" else None], headers, length=len(whole)
            )
        first, last = int(asked[1]), min(int(asked[2]), len(whole) - 1)
        if first >= len(whole):
            return self.reply(request, 416, b"")
        told = f"bytes {first}-{last}/{len(whole)}"
        body = whole[first : last + 1]
        length = len(body)
        if mode == "other range":
            told, body = f"bytes 0-{last - first}/{len(whole)}", whole[: last + 1 - first]
        if mode == "other total":
            told = f"bytes {first}-{last}/{len(whole) + 7}"
        if mode == "more":
            body += b"more"
            length = len(body)
        if mode == "cut once" and not [s for s in self.ranges[:-1] if s == self.ranges[-1]]:
            body = body[: len(body) // 2]
        if mode == "cut":
            body = body[:0]
        return self.reply(request, 206, body, headers | {"Content-Range": told}, length=length)

    def reply(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None,
        *, length: int | None = None,
    ) -> None:  # fmt: skip
        request.send_response(status)
        for name, value in (
            (headers or {}) | {"Content-Length": str(len(body) if length is None else length)}
        ).items():
            request.send_header(name, value)
        request.end_headers()
        # Before it is sent: who has read the answer may ask at once how much it was.
        self.sent += len(body)
        with suppress(OSError):
            request.wfile.write(body)
        if length is not None and length != len(body):
            request.close_connection = True


@contextmanager
def serving(content: bytes) -> Iterator[RangeServer]:
    server = RangeServer(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
