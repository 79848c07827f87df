"""Running a program of the wheel's environment: it may crash, hang, or start what it likes, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vllm_builder.fs import os_errors
from vllm_builder.stages.compile import supervisor
from vllm_builder.stages.compile.runner import LineSplitter

_GRACE = 5.0
"""Seconds between TERM and KILL."""
_KILL_WAIT = 5.0
_TAIL = 256 * 1024
"""Bytes at the end of a log that are read to explain a failure."""


class Program:
    """A program with all that it starts, from ``with`` to its end.

    What it prints goes into a file and not into a pipe: it must never wait for somebody who reads. However the block is
    left, and even if this process is killed, the program and everything below it end, also what made a session of its
    own.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, grace: float = _GRACE
    ) -> None:
        self.log = log
        self.seconds = 0.0
        self._grace = grace
        self._started = time.monotonic()
        self._lines = LineSplitter()
        self._read = 0
        with os_errors(f"starting {command[0]}"), log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", supervisor.__file__, "--tree", str(grace), *command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self) -> int | None:
        """None while it runs; else its exit status, 128 + n where signal n ended it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, seconds: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.status()

    def new_lines(self) -> list[str]:
        """What was printed since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        return self._lines.feed(data)

    def end(self) -> None:
        """End it and everything below it, and wait until all are gone."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        deadline = time.monotonic() + self._grace + _KILL_WAIT
        while self._process.poll() is None and time.monotonic() < deadline:
            # A second Ctrl-C must not leave anything behind.
            with contextlib.suppress(KeyboardInterrupt):
                self.wait(0.05)
        if self._process.poll() is None:
            left = supervisor.descendants(self._process.pid)
            for pid in [self._process.pid, *left]:
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            self._process.wait()
        self.seconds = time.monotonic() - self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. ``status`` None: it was ended for its time limit."""

    status: int | None
    seconds: float
    log: Path

    @property
    def signal(self) -> int | None:
        return self.status - 128 if self.status is not None and self.status > 128 else None


def run_program(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, limit: float
) -> Ended:
    """Run to the end, at most ``limit`` seconds."""
    with Program(command, env=env, cwd=cwd, log=log) as program:
        status = program.wait(limit)
    return Ended(status, program.seconds, log)


def tail(log: Path, count: int = 20) -> tuple[str, ...]:
    """The last lines that are not empty."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except OSError:
        return ()
    splitter = LineSplitter()
    lines = [*splitter.feed(data), *splitter.close()]
    return tuple([line for line in lines if line.strip()][-count:])
