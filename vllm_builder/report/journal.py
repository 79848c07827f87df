"""The journal of a plan's builds, written while they run: one JSON object per line, beside the log.

Whatever ends a build, what was written so far tells of it. Times are seconds since 1970, in ``at``. Kinds of lines::

    build      a build begins: plan, machine, builder, pid
    stage      a stage begins: stage, title         stage-end   it ended well: stage, seconds, summary
    note       a warning: stage, message            reused      something was not made again: what, detail
    run        setup.py begins: jobs                run-end     it ended
    ninja      a ninja began at ``at``              m           a sample: bytes ``m``, compilers ``n``
    peak       a unit's compiler is gone: source, and its most bytes ``m``
    edges      .ninja_log after a run, and the source files of its objects: log, sources
    cache      what the compiler cache answered, file by file: files
    attempt    why a run was not the last: reason, unit         scheduling  what was said of jobs and memory: text
    end        the build ended: outcome, fault, cache, left_out, resumed_from

It is bounded: samples become rarer in a long run (one a second for the first hour, one in two for the next two, and so on),
and old builds go when a new one begins and there is too much. Nothing in here ever raises: a journal that cannot be
written is switched off, and says so once, at the end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from vllm_builder.events import Event, Measured, Note, StageFinished, StageStarted
from vllm_builder.fs import make_dir, write_atomic

LARGEST: Final = 8 << 20
"""Bytes of a journal above which old builds go when a new one begins; half of it is kept."""
_SAMPLES: Final = 3600
"""Samples of one rate, before it is halved."""
_WARNINGS: Final = 200
_LONGEST: Final = 2000
"""Characters of a warning that are kept."""


class Journal:
    """Appends to a file; also a listener for events. ``reason`` says why it was switched off, empty while it works."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.reason = ""
        self._clock = clock
        self._file: IO[str] | None = None
        self._warnings = 0
        self._zero = 0.0
        self._run_began = 0.0
        self._every, self._written, self._due = 1, 0, 0.0
        self._highest: tuple[int, int] = (0, 0)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """A build begins."""

        def start() -> None:
            make_dir(self.path.parent)
            _shorten(self.path)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
            if self._file.tell() and not _ends_a_line(self.path):
                self._file.write("\n")

        self._guarded(start)
        self.write("build", pid=os.getpid(), **facts)

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self.write("stage", stage=event.stage, title=event.title)
            case StageFinished():
                self.write("stage-end", stage=event.stage, seconds=event.seconds, summary=event.summary)
            case Note(level="warning") if self._warnings < _WARNINGS:
                self._warnings += 1
                self.write("note", stage=event.stage, message=event.message[:_LONGEST])
            case Measured(what="run"):
                self.run(**event.values)
            case Measured(what="ninja"):
                self.status(**event.values)
            case Measured(what="memory"):
                self.sample(**event.values)
            case Measured():
                self.write(event.what, **event.values)

    def run(self, jobs: int) -> None:
        """setup.py begins."""
        self._run_began, self._zero = self._clock(), 0.0
        self._every, self._written, self._due, self._highest = 1, 0, 0.0, (0, 0)
        self.write("run", jobs=jobs)

    def status(self, elapsed: float) -> None:
        """ninja says that it began so many seconds ago."""
        began = self._clock() - elapsed
        if abs(began - self._zero) > 2:
            self._zero = began
            self.write("ninja", at=round(began, 3))

    def sample(self, m: int, n: int) -> None:
        """Bytes of all processes below setup.py, now, and how many compilers they are.

        Of what is left out between two lines, the highest is written.
        """
        self._highest = max(self._highest, (m, n))
        if self._clock() < self._due:
            return
        self.write("m", m=self._highest[0], n=self._highest[1])
        self._highest = (0, 0)
        self._written += 1
        if self._written >= _SAMPLES:
            self._every, self._written = self._every * 2, 0
        # A little early: ticks are never exact, and every other one must not be lost for that.
        self._due = self._clock() + self._every - 0.5

    def write(self, kind: str, **values: Any) -> None:
        def put() -> None:
            if self._file is not None:
                line = {"kind": kind, "at": round(self._clock(), 3), **values}
                # ASCII, so that a name that is no UTF-8 can be written too.
                self._file.write(json.dumps(line, separators=(",", ":"), default=str) + "\n")

        self._guarded(put)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._guarded(file.close)

    def _guarded(self, action: Callable[[], object]) -> None:
        if self.reason:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (no fault of the journal may end a build)
            self.reason = f"{type(error).__name__}: {error}"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _shorten(path: Path) -> None:
    """Let go of the oldest builds of a journal that has grown too large."""
    if not path.exists() or path.stat().st_size <= LARGEST:
        return
    builds: list[list[bytes]] = [[]]
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"kind":"build"'):
                builds.append([])
            builds[-1].append(line)
    kept: list[bytes] = []
    size = 0
    for build in reversed(builds[1:]):
        size += sum(map(len, build))
        if size > LARGEST // 2:
            break
        kept = build + kept
    write_atomic(path, b"".join(kept))
