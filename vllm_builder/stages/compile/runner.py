"""Run one command under the supervisor, and hand over what it prints as it prints it."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vllm_builder.fs import os_errors
from vllm_builder.stages.compile import supervisor

GRACE = 5.0
"""Seconds between TERM and KILL."""

_CHUNK = 1 << 16
_LONGEST = 1 << 14


class LineSplitter:
    """Bytes in, lines out, whatever the tool prints.

    A carriage return ends a line as a newline does (progress bars); undecodable bytes become U+FFFD; of a
    line longer than 16 KiB only the beginning is handed on, followed by the number of bytes left out. The
    log file gets the bytes themselves and so has everything.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes. Empty lines that only a CR makes are left out."""
        out: list[str] = []
        *whole, self._rest = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in whole:
            out.append(self._text(piece))
            self._dropped = 0
        if len(self._rest) > _LONGEST:
            self._dropped += len(self._rest) - _LONGEST
            self._rest = self._rest[:_LONGEST]
        return out

    def close(self) -> list[str]:
        """What stands after the last line end."""
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    def _text(self, piece: bytes) -> str:
        dropped = self._dropped + max(0, len(piece) - _LONGEST)
        text = piece[:_LONGEST].decode("utf-8", "replace")
        return f"{text}... ({dropped} more bytes in the log)" if dropped else text


def run_supervised(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_output: Callable[[bytes], None],
    on_tick: Callable[[int], None],
    tick: float = 1.0,
    grace: float = GRACE,
    keep_open: Sequence[int] = (),
) -> int:
    """Run ``command`` and return its exit status (128 + n where signal n ended it).

    Whatever leaves this function, be it Ctrl-C or an error in a callback, the command and all that it
    started have ended before.

    Args:
        command: program (absolute path) and arguments.
        cwd: folder to run it in.
        env: its whole environment.
        on_output: called with raw bytes, standard output and standard error in the order they came.
        on_tick: called about every ``tick`` seconds with the supervisor's process id.
        tick: seconds.
        grace: seconds between TERM and KILL when the command is ended early.
        keep_open: descriptors that the supervisor (not the command) holds for as long as it lives; a file
            lock on one of them outlives the builder until the last compiler is gone.

    Raises:
        BuilderError: the supervisor could not be started (NoSpace, NotWritable where that is the reason).
    """
    with os_errors(f"starting {command[0]}"):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", supervisor.__file__, str(grace), *command],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
            bufsize=0,
        )
    try:
        _pump(process, on_output, on_tick, tick)
    finally:
        _end(process, grace)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _pump(
    process: subprocess.Popen[bytes],
    on_output: Callable[[bytes], None],
    on_tick: Callable[[int], None],
    tick: float,
) -> None:
    assert process.stdout is not None
    fd = process.stdout.fileno()
    os.set_blocking(fd, False)
    next_tick = time.monotonic() + min(tick, 0.5)
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            # A daemon that the build leaves behind (sccache's server) may hold the pipe open for ever: the
            # supervisor's end, not the pipe's, is the end of the build.
            ended = process.poll() is not None
            ready = selector.select(0 if ended else 0.25)
            if ready:
                data = os.read(fd, _CHUNK)
                if not data:
                    process.wait()
                    return
                on_output(data)
            elif ended:
                return
            if time.monotonic() >= next_tick:
                on_tick(process.pid)
                next_tick = time.monotonic() + tick


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Let go of the supervisor and wait until it and all below it are gone."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    deadline = time.monotonic() + grace + 5
    while process.poll() is None and time.monotonic() < deadline:
        # A second Ctrl-C must not leave compilers behind.
        with contextlib.suppress(KeyboardInterrupt):
            _drain(process)
            time.sleep(0.02)
    if process.poll() is None:
        process.kill()
        process.wait()
    # Nothing is left to do unless the supervisor itself was killed.
    supervisor.end_session(process.pid, 0)
    if process.stdout is not None:
        process.stdout.close()


def _drain(process: subprocess.Popen[bytes]) -> None:
    # The supervised processes must not block on a full pipe while they wind up.
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        while os.read(process.stdout.fileno(), _CHUNK):
            pass
