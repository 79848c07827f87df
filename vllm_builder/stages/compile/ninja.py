"""ninja's own status line, and what its log says about an earlier, broken-off build."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from vllm_builder.events import Progress

STATUS = "[%f/%t, %r running, %es] "
"""Value for NINJA_STATUS: finished, total, running, seconds since ninja started."""

_LINE = re.compile(r"^\[(\d{1,9})/(\d{1,9}), (\d{1,6}) running, (\d{1,9}(?:\.\d+)?)s\] (.*)$")
_BEGIN = re.compile(r"^-- Compiling: (\d{1,9}) of (\d{1,9}) units are done$")
_WINDOW = 40


class NinjaProgress:
    """Turn status lines into totals over however many ninja runs one setup.py makes."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.finished = 0
        """Units finished by all runs so far."""
        self.total: int | None = None
        self.seen = False
        self._before = 0
        self._in_run = 0
        self._run_total = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._last: float = 0.0
        self._seen_at = 0.0

    def begin(self, left: int) -> None:
        """Compiling begins, with ``left`` units to do: what ran so far were parts of CMake's configure."""
        self._start()
        self.total = left
        self.seen = True

    def feed(self, line: str) -> bool:
        """Take one line of output; True when it was ninja's status."""
        match = _LINE.match(line)
        if match is None:
            return False
        finished, total, elapsed = int(match[1]), int(match[2]), float(match[4])
        if finished < self._in_run or (finished == self._in_run and elapsed < self._last):
            # Counting started anew: another `cmake --build`, or ninja re-made its build file first.
            self._before += self._in_run
            self._marks.clear()
        self.seen = True
        self._in_run, self._run_total, self._last = finished, total, elapsed
        self._seen_at = time.monotonic()
        self._marks.append((elapsed, finished))
        self.finished = self._before + finished
        self.total = self._before + total
        return True

    @property
    def elapsed(self) -> float:
        """Seconds since the ninja that runs now began, as its last status line said."""
        return self._last

    def rate(self) -> float | None:
        """Units per second over the last forty units; None before two are known."""
        if len(self._marks) < 2:
            return None
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    def event(self, *, earlier: int = 0, current: tuple[str, ...] = ()) -> Progress:
        """A Progress event; ``earlier`` units were finished by a build before this one."""
        rate = self.rate()
        eta = None
        if rate and self.total is not None:
            silent = time.monotonic() - self._seen_at
            eta = max(0.0, (self.total - self.finished) / rate - silent)
        return Progress(
            stage="compile",
            task="compile",
            done=earlier + self.finished,
            total=None if self.total is None else earlier + self.total,
            unit="units",
            rate=rate,
            eta=eta,
            current=current,
        )


def begun(line: str) -> tuple[int, int] | None:
    """Done and total where ``line`` says so just before a ``cmake --build`` (see :func:`.schedule.finished`)."""
    match = _BEGIN.match(line)
    return (int(match[1]), int(match[2])) if match else None


def logs(tree: Path) -> list[Path]:
    """The .ninja_log files of a setup.py build folder (one per build_temp)."""
    return sorted((tree / "build").glob("temp*/.ninja_log"))


def finished_edges(paths: Iterable[Path]) -> int:
    """Distinct edges recorded in ninja logs. An edge with several outputs has several lines.

    A damaged line (a build that was cut off while writing) counts as nothing, as it does for ninja.
    """
    count = 0
    for path in paths:
        outputs: dict[str, tuple[str, ...]] = {}
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            fields = line.split("\t")
            if line.startswith("#") or len(fields) != 5 or fields[3] == "build.ninja":
                continue
            # start, end, mtime, output, hash of the command; the last line of an output is the valid one.
            outputs[fields[3]] = (fields[0], fields[1], fields[4])
        count += len(set(outputs.values()))
    return count
