"""What stands between ccache and a shared cache: ccache's storage helper protocol on a Unix socket.

ccache (4.13 and later, ``crsh:``) asks a helper for entries by key. Here it is a thread of the builder, so that all kinds
of places work the same, what is read is checked, and one build has one opinion of whether the cache is usable. A Unix
socket is a file: it reaches a build that has no network (``--isolate``), which gets entries of
this cache thereby and nothing else.

The protocol is that of ccache's ``doc/remote_storage_helper_spec.md``, version 1. Integers are in the byte order of the
host.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from vllm_builder.shared.remote import LIMITS, Remote

_GREETING: Final = bytes((1, 1, 0))
"""Protocol version 1, one capability: get, put, remove and stop."""
_GET, _PUT, _REMOVE, _STOP = 0, 1, 2, 3
_OK, _NOOP = b"\x00", b"\x01"
_WAITING: Final = 256 << 20
"""Bytes that may wait to be written back; what is more is not."""
_WRITERS: Final = 4
_SECONDS: Final = 60.0
_SOCKET_PATH: Final = 100
"""Characters; the kernel takes 107."""


class Helper:
    """A socket that ccache asks, as long as the block lasts; then what is left is written back.

    Raises:
        OSError: no socket can be made.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._folder = _private_folder()
        self._socket = self._folder / "s"
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self._size = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._server = _Server(str(self._socket), self)
        serve = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name="shared-cache-server"
        )
        serve.start()
        for _ in range(_WRITERS):
            threading.Thread(target=self._write, daemon=True, name="shared-cache-writer").start()

    @property
    def setting(self) -> str:
        """ccache's ``remote_storage``."""
        # The limits of the cache are shorter: these are for a helper that hangs.
        return f"crsh:{self._socket} data-timeout=20s request-timeout=30s"

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def drain(self, seconds: float = _SECONDS) -> None:
        """Wait for what is to be written back; then nothing more is."""
        until = time.monotonic() + seconds
        while self._size and time.monotonic() < until and not self._remote.off:
            time.sleep(0.02)
            self._remote.tell()
        left = self._dropped + (self._waiting.qsize() if self._size else 0)
        if left and not self._remote.off:
            many = "1 entry" if left == 1 else f"{left} entries"
            self._remote.note(
                f"{many} of the compiler cache could not be written to {self._remote.shown} in time."
            )
        self._remote.tell()
        for _ in range(_WRITERS):
            self._waiting.put(None)

    def get(self, key: bytes) -> bytes | None:
        return self._remote.get("unit", key.hex())

    def put(self, key: bytes, value: bytes) -> bool:
        if self._remote.writes_off:
            return False
        with self._lock:
            if self._size + len(value) > _WAITING:
                self._dropped += 1
                return False
            self._size += len(value)
        self._waiting.put((key.hex(), value))
        return True

    def _write(self) -> None:
        while (item := self._waiting.get()) is not None:
            name, value = item
            try:
                self._remote.put("unit", name, value)
            finally:
                with self._lock:
                    self._size -= len(value)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: str, helper: Helper) -> None:
        self.helper = helper
        super().__init__(path, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A ccache that went away in the middle."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    connection: socket.socket

    def handle(self) -> None:
        helper = self.server.helper
        self.connection.settimeout(60)
        with contextlib.suppress(OSError, EOFError):
            self._say(_GREETING)
            while request := self.rfile.read(1):
                if request[0] == _GET:
                    found = helper.get(self._key())
                    self._say(_NOOP if found is None else _OK + struct.pack("=Q", len(found)) + found)
                elif request[0] == _PUT:
                    key, _, size = self._key(), self._exactly(1), struct.unpack("=Q", self._exactly(8))[0]
                    if size > LIMITS["unit"].size:
                        return
                    self._say(_OK if helper.put(key, self._exactly(size)) else _NOOP)
                elif request[0] == _REMOVE:
                    # ccache removes what it finds damaged; it is replaced by what is compiled then.
                    self._key()
                    self._say(_NOOP)
                else:
                    # Stop: the helper lives as long as its build.
                    self._say(_OK)
                    return

    def _key(self) -> bytes:
        return self._exactly(self._exactly(1)[0])

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def _say(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()


def _private_folder() -> Path:
    """A folder whose path is short enough for a socket and holds nothing that ccache's setting would be cut at."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) < _SOCKET_PATH - 30 and not set(parent) & set(" \t\n|*%@"):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="vllm-builder-", dir=parent))
    raise OSError(errno.ENAMETOOLONG, "no folder for temporary files is good for a socket")
