"""Which of the displays a stream gets."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from vllm_builder.listeners.plain import Plain, Verbosity

if TYPE_CHECKING:
    from vllm_builder.listeners.terminal import Terminal


def screen(stream: IO[str], *, verbosity: Verbosity = "normal") -> Plain | Terminal:
    """The live display where ``stream`` is a terminal that can move its cursor, plain lines elsewhere.

    rich is only imported for the former. NO_COLOR takes the colours away, not the display.
    """
    try:
        tty = stream.isatty()
    except ValueError:
        tty = False
    if not tty or os.environ.get("TERM", "").lower() in {"dumb", "unknown"}:
        return Plain(stream, verbosity=verbosity)

    from rich.console import Console

    from vllm_builder.listeners.terminal import Terminal

    return Terminal(Console(file=stream, highlight=False, markup=False, emoji=False), verbosity=verbosity)
