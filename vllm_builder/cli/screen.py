"""What the commands print, and to where: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit

_state: dict[str, bool] = {"json": False}


def use_json(on: bool) -> None:
    """From here on: one JSON document on stdout, events as JSON lines on stderr."""
    _state["json"] = on


def as_json() -> bool:
    return _state["json"]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def fail(error: BuilderError) -> int:
    """Show an error and return its exit code."""
    if as_json():
        print_json(error.as_dict())
        return error.exit_code
    from rich.console import Console

    from vllm_builder.listeners import render_error

    render_error(error, Console(stderr=True))
    return error.exit_code


def listener(*, verbose: bool = False, quiet: bool = False) -> Emit:
    """The listener for this run."""
    if as_json():
        from vllm_builder.listeners import JsonLines

        return JsonLines(sys.stderr)
    return _Late(verbose=verbose, quiet=quiet)


class _Late:
    """Loads the terminal listener with the first event that is worth showing.

    A wheel that comes from the store is there before rich is imported.
    """

    def __init__(self, **options: bool) -> None:
        self._options = options
        self._real: Emit | None = None

    def __call__(self, event: Any) -> None:
        if self._real is None:
            from vllm_builder.events import Note, StageFinished, StageStarted

            if isinstance(event, StageStarted | StageFinished) and event.stage == "plan":
                return
            if isinstance(event, Note) and event.level == "debug" and not self._options["verbose"]:
                return
            from rich.console import Console

            from vllm_builder.listeners import Terminal

            self._real = Terminal(Console(stderr=True), **self._options)
        self._real(event)


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
