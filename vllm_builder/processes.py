"""Asking a program something short: it cannot hang, wait for input, or answer in a text that cannot be read."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SECONDS = 60.0
NOT_STARTED = 126
NO_ANSWER = 124
"""The statuses that a shell and ``timeout`` would give."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said. ``stderr`` is the reason where it could not be started or did not answer."""

    stdout: str
    stderr: str
    status: int

    @property
    def good(self) -> bool:
        return self.status == 0

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


def ask(command: Sequence[str], environ: Mapping[str, str] | None, *, seconds: float = _SECONDS) -> Answer:
    """Run a program to its end and return what it said.

    Args:
        command: program and arguments.
        environ: its variables; None: those of this process.
        seconds: after which it is ended.
    """
    try:
        done = subprocess.run(
            command,
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except OSError as problem:
        return Answer("", problem.strerror or str(problem), NOT_STARTED)
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer within {seconds:g} seconds", NO_ANSWER)
    return Answer(done.stdout, done.stderr, done.returncode)
