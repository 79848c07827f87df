"""Run one command and measure it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from measuring.machine import busy
from measuring.model import Failed, Measured, TooLate

_TOLD = 300
"""Characters of a failed command's last lines that go into the table."""
_GRACE = 120.0
"""Seconds that a command may go on after the suite's time is over."""


class Stopwatch:
    """``deadline`` is a moment of ``time.monotonic``: what still runs some time after it is ended."""

    def __init__(self, deadline: float, hide: Sequence[Path] = ()) -> None:
        self.deadline = deadline
        self.hide = [str(path) for path in hide]

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> tuple[Measured, str]:
        """What it took, and what it wrote to stdout; stderr goes to the log, which is kept.

        Nothing else may be started meanwhile, or its CPU time would be counted too.

        Raises:
            Failed: it ended with another status than 0.
            TooLate: the time is over.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        before, others, started = _children(), busy(), time.perf_counter()
        with log.open("wb") as errors:
            try:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise Failed(self.told(str(error))) from error
            try:
                said = process.communicate(timeout=max(1.0, self.deadline + _GRACE - time.monotonic()))[0]
            except BaseException as error:
                _end(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TooLate from error
                raise
        wall, cpu, used = time.perf_counter() - started, _children() - before, busy() - others
        text = said.decode(errors="replace")
        if process.returncode:
            with log.open("ab") as file:
                file.write(said)
            raise Failed(self.told(f"exit status {process.returncode}: {_tail(log)}"))
        share = max(0.0, used - cpu) / (max(wall, 0.001) * (os.cpu_count() or 1))
        return Measured(wall, cpu, min(1.0, share)), text

    def told(self, text: str) -> str:
        for path in self.hide:
            text = text.replace(path, "…")
        return text


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end(process: subprocess.Popen[bytes]) -> None:
    """First politely, so that ours ends its compilers; then with all that shares the session."""
    for number, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)
            return


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()]
    return " ".join((wrong or lines)[-2:])[-_TOLD:]
