"""Plain lines, for pipes, files and dumb terminals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, Self

from vllm_builder.events import Event, Note, Output, Progress, StageFinished, StageStarted
from vllm_builder.listeners import text

_STEP = 5
"""Percent of progress that are worth a line."""
_SOON = 5.0
"""Seconds that always lie between two lines of progress."""
_LATE = 30.0
"""Seconds after which any progress is worth a line."""


class Plain:
    """Write events to ``stream`` as lines, without colour and without flooding.

    ``quiet`` leaves only warnings, ``verbose`` adds what tools print. When the reader has gone it falls
    silent.

    Args:
        clock: seconds that only grow; for tests.
    """

    def __init__(
        self,
        stream: IO[str],
        *,
        verbose: bool = False,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: IO[str] | None = stream
        self._verbose = verbose and not quiet
        self._quiet = quiet
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int | None, float]] = {}

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line is not None:
            self._write(line)

    def _line(self, event: Event) -> str | None:
        if isinstance(event, Note):
            return self._note(event)
        if self._quiet:
            return None
        match event:
            case StageStarted():
                self._told.clear()
                return f"{event.stage}: {text.clean(event.title)} ..."
            case StageFinished():
                summary = f": {text.clean(event.summary)}" if event.summary else ""
                return f"{event.stage}: done in {text.duration(event.seconds)}{summary}"
            case Output() if self._verbose:
                return text.clean(event.line)
            case Progress():
                return self._progress(event)
            case _:
                return None

    def _note(self, event: Note) -> str | None:
        if event.level == "warning":
            return f"{event.stage}: warning: {text.paragraph(event.message)}"
        if self._quiet or (event.level == "debug" and not self._verbose):
            return None
        return f"{event.stage}: {text.paragraph(event.message)}"

    def _progress(self, event: Progress) -> str | None:
        key = (event.stage, event.task)
        percent, now = text.percent(event), self._clock()
        when, last, done = self._told.get(key, (now, percent, event.done))
        if key not in self._told or event.done < done:
            # Where counting begins (again), there is nothing to tell yet.
            self._told[key] = (now, percent, event.done)
            return None
        step = percent is not None and last is not None and percent - last >= _STEP
        if event.done == done or not ((step and now - when >= _SOON) or now - when >= _LATE):
            return None
        self._told[key] = (now, percent, event.done)
        return self._words(event, percent)

    def _words(self, event: Progress, percent: int | None) -> str:
        parts = [text.amount(event) + (f" ({percent} %)" if percent is not None else "")]
        if event.rate:
            parts.append(text.rate(event.rate, event.unit))
        if event.eta:
            parts.append(f"{text.duration(event.eta)} left")
        what = f" {event.task}" if event.task != event.stage else ""
        now = f": {', '.join(map(text.clean, event.current))}" if event.current else ""
        return f"{event.stage}:{what} {', '.join(parts)}{now}"

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        printable = line.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(printable + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # ValueError: the stream is closed.
            text.abandon(self._stream)
            self._stream = None

    def close(self, *, failed: bool = False) -> None:
        """For symmetry with the terminal: there is nothing to take down."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
