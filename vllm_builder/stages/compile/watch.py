"""What happens while setup.py runs: lines become events, and now and then the processes are looked at."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil

from vllm_builder.events import Emit, Measured, Note, Output, What
from vllm_builder.stages.compile import compilercache, ninja, schedule
from vllm_builder.stages.compile.runner import LineSplitter

_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".cu", ".S", ".hip")
_SHELLS = {"sh", "bash", "dash", "ash"}
_STEPS = {"cc1plus", "cc1", "as", "clang", "clang++", "cudafe++", "cicc", "ptxas", "fatbinary", "nvlink"}
"""Programs that do a compiler's work below its driver, by the names of GCC and nvcc."""


class Watch:
    """Takes what one run of setup.py prints, and samples the memory of its compilers.

    ``earlier`` is how many units an earlier build had finished, for where nothing says it better; ``jobs`` how many
    compilers may run at once.
    """

    def __init__(self, tree: Path, emit: Emit, earlier: int, *, jobs: int = 0) -> None:
        self.progress = ninja.NinjaProgress()
        self.peak_memory = 0
        self.peaks: dict[str, int] = {}
        """Source file -> the largest sum of resident memory of its compiler's processes, in bytes, as sampled."""
        self.resumed_from: int | None = None
        """Units that were done when compiling began; None where nothing said so."""
        self._tree = tree
        self._emit = emit
        self._earlier = earlier
        self._lines = LineSplitter()
        self._current: tuple[str, ...] = ()
        self._running: dict[str, int] = {}
        self._spent: dict[str, dict[tuple[int, str], float]] = {}
        """Source file -> (process, its program) -> CPU seconds when it was seen last."""
        self._measured("run", jobs=jobs)

    def output(self, data: bytes) -> None:
        self._take(self._lines.feed(data))

    def close(self) -> None:
        self._take(self._lines.close())
        for source in list(self._running):
            self._unit_ended(source)
        for values in built(self._tree):
            self._measured("edges", **values)
        if answers := compilercache.ccache_by_file(self._tree / "build" / "vllm-builder" / "ccache.stats"):
            self._measured("cache", files=answers)
        self._measured("run-end")

    def _unit_ended(self, source: str) -> None:
        steps: dict[str, float] = {}
        for (_, program), seconds in self._spent.pop(source, {}).items():
            steps[program] = round(steps.get(program, 0.0) + seconds, 2)
        self._measured("peak", source=source, m=self._running.pop(source), steps=steps)

    def _measured(self, what: What, **values: Any) -> None:
        self._emit(Measured(stage="compile", what=what, values=values))

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self._emit(Output(stage="compile", line=line))
            if line.startswith("-- Scheduling: "):
                self._measured("scheduling", text=line.removeprefix("-- Scheduling: "))
            if (found := ninja.begun(line)) is not None and self.resumed_from is None:
                self._begin(*found)
            elif self.progress.feed(line):
                self._measured("ninja", elapsed=self.progress.elapsed)
                self._emit(self.progress.event(earlier=self._earlier, current=self._current))

    def _begin(self, done: int, total: int) -> None:
        # The log of an earlier build may count what has to be compiled again; this does not.
        self.resumed_from = self._earlier = done
        self.progress.begin(total - done)
        if done:
            self._emit(Note(stage="compile", message=f"resuming, {done} of {total} done"))
        self._emit(self.progress.event(earlier=done))

    def counted(self) -> str:
        """``135 of 164``, earlier builds included."""
        total = self.progress.total
        return (
            f"{self._earlier + self.progress.finished} of {'?' if total is None else self._earlier + total}"
        )

    def tick(self, supervisor: int) -> None:
        memory: dict[int, int] = {}
        parents: dict[int, int] = {}
        owners: dict[int, str] = {}
        spent: dict[int, tuple[str, float]] = {}
        for process in _below(supervisor):
            with contextlib.suppress(psutil.Error):
                memory[process.pid] = process.memory_info().rss
                parents[process.pid] = process.ppid()
                if source := _source(process.cmdline()):
                    owners[process.pid] = source
                if (name := process.name()) in _STEPS:
                    spent[process.pid] = (name, sum(process.cpu_times()[:2]))
        units: dict[str, int] = {}
        for pid, used in memory.items():
            # cc1plus, cicc and ptxas name no source, but the driver above them does.
            above, steps = pid, 0
            while above not in owners and above in parents and steps < 20:
                above, steps = parents[above], steps + 1
            if above in owners:
                source = owners[above]
                units[source] = units.get(source, 0) + used
                if pid in spent:
                    program, seconds = spent[pid]
                    self._spent.setdefault(source, {})[pid, program] = seconds
        for source, used in units.items():
            self.peaks[source] = max(self.peaks.get(source, 0), used)
        for source in self._running.keys() - units.keys():
            self._unit_ended(source)
        for source, used in units.items():
            self._running[source] = max(self._running.get(source, 0), used)
        total = sum(memory.values())
        self._measured("memory", m=total, n=len(units))
        self.peak_memory = max(self.peak_memory, total)
        self._current = tuple(self._short(source) for source in units)
        if self.progress.seen:
            self._emit(self.progress.event(earlier=self._earlier, current=self._current))

    def _short(self, source: str) -> str:
        path = Path(source)
        return str(path.relative_to(self._tree)) if path.is_relative_to(self._tree) else source


def built(tree: Path) -> list[dict[str, Any]]:
    """What ninja's logs below a tree hold now: of each its text, and the source files of its objects.

    The log is of ninja's own making and forgets when it is recompacted; so it is kept at the end of each run.
    """
    found = []
    for log in ninja.logs(tree):
        with contextlib.suppress(OSError):
            text = log.read_text(errors="replace")
            sources: dict[str, str] = {}
            with contextlib.suppress(OSError):
                sources = schedule.objects((log.parent / "build.ninja").read_text(errors="replace"))
            found.append({"log": text, "sources": sources})
    return found


def _below(supervisor: int) -> list[psutil.Process]:
    try:
        return psutil.Process(supervisor).children(recursive=True)
    except psutil.Error:
        return []


def _source(command: list[str]) -> str | None:
    """The source file that a compiler's command line names after ``-c``."""
    # ninja starts everything through `sh -c "..."`.
    if "-c" in command[:-1] and Path(command[0]).name not in _SHELLS:
        candidate = command[command.index("-c") + 1]
        if candidate.endswith(_SOURCES):
            return candidate
    return None
