"""What the commands print, and to where: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit, Event, Note, StageFinished, StageStarted
from vllm_builder.listeners.choice import screen as choose

if TYPE_CHECKING:
    from rich.console import Console

_state: dict[str, bool] = {"json": False}


def use_json(on: bool) -> None:
    """From here on: one JSON document on stdout, events as JSON lines on stderr."""
    _state["json"] = on


def as_json() -> bool:
    return _state["json"]


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # of a path that is no UTF-8
            text = json.dumps(value, indent=1)
    print(text)


def console(*, width: int | None = None) -> Console:
    """Where a result is shown to a person. ``width`` counts where standard output is no terminal."""
    from rich.console import Console

    class Standard(Console):
        def on_broken_pipe(self) -> None:
            # rich's own way out is the status 1, which means something else in scripts.
            raise BrokenPipeError

    made = Standard()
    if width is not None and not made.is_terminal:
        made.width = width
    return made


def fail(error: BuilderError) -> int:
    """Show an error and return its exit code."""
    with suppress(OSError, ValueError):
        finish(failed=True)
    if as_json():
        try:
            print_json(error.as_dict())
            sys.stdout.flush()
            return error.exit_code
        except (OSError, ValueError):
            pass  # nobody reads standard output: the other one may still be heard
    from rich.console import Console

    from vllm_builder.listeners import render_error

    render_error(error, Console(stderr=True))
    return error.exit_code


_open: list[Any] = []


def listener(*, verbose: bool = False, quiet: bool = False) -> Emit:
    """The listener for this run; it cannot break a build."""
    from vllm_builder.listeners.fan import fan_out
    from vllm_builder.listeners.jsonlines import JsonLines

    chosen = JsonLines(sys.stderr) if as_json() else _Late(verbose=verbose, quiet=quiet)
    _open.append(chosen)
    return fan_out(chosen)


def finish(*, failed: bool = False) -> None:
    """Take the live display away, before anything else is printed."""
    for one in _open:
        if isinstance(one, _Late):
            one.close(failed=failed)
    _open.clear()


class _Late:
    """Chooses the display with the first event that is worth showing.

    A wheel that comes from the store is there before rich would have been imported.
    """

    def __init__(self, *, verbose: bool, quiet: bool) -> None:
        self._verbose = verbose
        self._quiet = quiet
        self._real: Emit | None = None

    def __call__(self, event: Event) -> None:
        if self._real is None:
            silent = isinstance(event, StageStarted | StageFinished) and event.stage == "plan"
            if silent or (isinstance(event, Note) and event.level == "debug" and not self._verbose):
                return
            self._real = choose(sys.stderr, verbose=self._verbose, quiet=self._quiet)
        self._real(event)

    def close(self, *, failed: bool = False) -> None:
        close = getattr(self._real, "close", None)
        if close is not None:
            close(failed=failed)


def size(count: float) -> str:
    """``3465721`` -> ``3.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
