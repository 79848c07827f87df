"""The live display of a terminal: one line per finished stage, and below them what is going on now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Self, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vllm_builder.events import Event, Note, Output, Progress, StageFinished, StageStarted
from vllm_builder.listeners import text
from vllm_builder.listeners.plain import Plain

_STAGE_WIDTH = len("environment")
_TIME_WIDTH = len("59 min 59 s")
_MOST_TASKS = 6
"""Tasks shown at once; a stage with more (downloads) shows the latest."""


_NAME_WIDTH = 26
_BAR = (8, 48)
"""Columns of a bar: fewer say nothing, more say no more."""


@dataclass(slots=True)
class _Active:
    """A stage that runs."""

    stage: str
    title: str
    since: float
    tasks: dict[str, Progress] = field(default_factory=dict)
    line: str = ""
    """What its tool printed last."""


class Terminal:
    """Show events on ``console``: stages as lines, a live bar, notes and warnings between them.

    On a console that is no terminal, a dumb one or one without Unicode, it writes the lines of
    :class:`Plain`. ``quiet`` shows only warnings, ``verbose`` adds what tools print. A closed terminal
    silences it.

    Args:
        clock: seconds that only grow; for tests.
    """

    def __init__(
        self,
        console: Console,
        *,
        verbose: bool = False,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._verbose = verbose and not quiet
        self._quiet = quiet
        self._clock = clock
        self._plain: Plain | None = None
        if not console.is_terminal or console.is_dumb_terminal or not text.writes_unicode(console.file):
            self._plain = Plain(console.file, verbose=verbose, quiet=quiet, clock=clock)
            return
        if not isinstance(console.file, _Forgiving):
            console.file = cast(IO[str], _Forgiving(console.file))
        self._spinner = Spinner("dots", style="cyan")
        self._active: dict[str, _Active] = {}
        self._live: Live | None = None
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if self._plain is not None:
            self._plain(event)
            return
        line = self._take(event)
        # Not under the lock: the display's own thread holds rich's lock while it asks for the picture.
        if line is not None:
            self._console.print(line)
        if not self._quiet and self._active and self._live is None:
            self._live = Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        elif not self._active and self._live is not None:
            self._stop()

    def close(self, *, failed: bool = False) -> None:
        """Take the live part down; with ``failed``, what was still running is marked as failed."""
        if self._plain is not None:
            return
        with self._lock:
            left = list(self._active.values())
            self._active.clear()
        self._stop()
        if failed and not self._quiet:
            for active in left:
                seconds = self._clock() - active.since
                self._console.print(self._stage_line("✗", "red", active.stage, seconds, active.title))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.close(failed=kind is not None)

    # Events --------------------------------------------------------------------------------------
    def _take(self, event: Event) -> RenderableType | None:
        """Remember what the event says, and return the line that it leaves for good."""
        with self._lock:
            match event:
                case StageStarted():
                    self._active[event.stage] = _Active(event.stage, text.clean(event.title), self._clock())
                case StageFinished():
                    active = self._active.pop(event.stage, None)
                    words = text.clean(event.summary) or (active.title if active else "")
                    if not self._quiet:
                        return self._stage_line("✓", "green", event.stage, event.seconds, words)
                case Progress():
                    self._progress(event)
                case Output():
                    return self._output(event)
                case Note():
                    return self._note(event)
        return None

    def _progress(self, event: Progress) -> None:
        active = self._active.get(event.stage)
        if active is None:
            return
        active.tasks.pop(event.task, None)
        if event.total is None or event.done < event.total or not event.total:
            active.tasks[event.task] = event

    def _output(self, event: Output) -> RenderableType | None:
        line = text.clean(event.line)
        if self._verbose:
            return Text(line, style="dim", overflow="fold")
        active = self._active.get(event.stage)
        if active is not None and line.strip():
            active.line = line.strip()
        return None

    def _note(self, event: Note) -> RenderableType | None:
        words = text.paragraph(event.message)
        if event.level == "warning":
            return _hanging(("!", "bold yellow"), Text(words, style="yellow"))
        if not self._quiet and (self._verbose or event.level == "info"):
            return _hanging(("·", "dim"), Text(words, style="dim" if event.level == "debug" else ""))
        return None

    # Pictures ------------------------------------------------------------------------------------
    def _stage_line(self, mark: str, style: str, stage: str, seconds: float, words: str) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=_STAGE_WIDTH, no_wrap=True)
        grid.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(
            Text(mark, style=f"bold {style}"),
            Text(stage, style="bold"),
            Text(text.duration(seconds), style="dim"),
            Text(words),
        )
        return grid

    def _picture(self) -> RenderableType:
        with self._lock:
            stages = [(a, list(a.tasks.values())[-_MOST_TASKS:]) for a in self._active.values()]
        rows: list[RenderableType] = []
        for active, tasks in stages:
            rows.append(self._head(active))
            for task in tasks:
                rows.extend(self._task(task, named=len(tasks) > 1))
            if not tasks and active.line:
                rows.append(_cut("  " + active.line, "dim"))
        return Group(*rows)

    def _head(self, active: _Active) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1)
        grid.add_column(width=_STAGE_WIDTH, no_wrap=True)
        grid.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_row(
            self._spinner,
            Text(active.stage, style="bold"),
            Text(text.duration(self._clock() - active.since), style="dim"),
            Text(active.title, no_wrap=True, overflow="ellipsis"),
        )
        return grid

    def _task(self, task: Progress, *, named: bool) -> list[RenderableType]:
        facts = [text.amount(task)]
        if (percent := text.percent(task)) is not None:
            facts.append(f"{percent} %")
        if task.rate:
            facts.append(text.rate(task.rate, task.unit))
        if task.eta:
            facts.append(f"{text.duration(task.eta)} left")
        told = "  ".join(facts)
        name = text.clean(task.task) if named else ""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        cells: list[RenderableType] = [""]
        room = self._console.width - 3 - len(told)
        if name:
            # What is left beside a bar of the least width and the numbers.
            width = max(8, min(_NAME_WIDTH, room - _BAR[0] - 1))
            grid.add_column(width=width, no_wrap=True, overflow="ellipsis")
            cells.append(Text(name, no_wrap=True, overflow="ellipsis"))
            room -= width + 1
        if task.total and room > _BAR[0]:
            cells.append(ProgressBar(total=task.total, completed=task.done, width=min(_BAR[1], room - 1)))
            grid.add_column()
        cells.append(Text(told, no_wrap=True, overflow="ellipsis"))
        grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        rows: list[RenderableType] = [grid]
        if task.current:
            rows.append(_cut("  " + ", ".join(map(text.clean, task.current)), "dim"))
        return rows

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


def _hanging(mark: tuple[str, str], words: Text) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark[0], style=mark[1]), words)
    return grid


def _cut(line: str, style: str) -> Text:
    return Text(line, style=style, no_wrap=True, overflow="ellipsis")


class _Forgiving:
    """A stream that swallows what is written once its reader has gone.

    rich would end the program on a closed pipe, and its display writes from a thread of its own.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._gone = False

    def write(self, data: str) -> int:
        self._guarded(lambda: self._stream.write(data))
        return len(data)

    def flush(self) -> None:
        self._guarded(self._stream.flush)

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            action()
        except UnicodeError:
            raise
        except (OSError, ValueError):
            # ValueError: the stream is closed. EIO: the terminal has hung up.
            self._gone = True
            text.abandon(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
