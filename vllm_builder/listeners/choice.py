"""Which of the displays a stream gets."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from vllm_builder.listeners import text
from vllm_builder.listeners.plain import Plain

if TYPE_CHECKING:
    from vllm_builder.listeners.terminal import Terminal


def screen(stream: IO[str], *, verbose: bool = False, quiet: bool = False) -> Plain | Terminal:
    """The live display on a terminal that can move its cursor and show Unicode, plain lines elsewhere.

    rich is only imported for the former. NO_COLOR takes the colours away, not the display.
    """
    try:
        tty = stream.isatty()
    except ValueError:
        tty = False
    dumb = os.environ.get("TERM", "").lower() in {"dumb", "unknown"}
    if not tty or dumb or not text.writes_unicode(stream):
        return Plain(stream, verbose=verbose, quiet=quiet)

    from rich.console import Console

    from vllm_builder.listeners.terminal import Terminal

    return Terminal(
        Console(file=stream, highlight=False, markup=False, emoji=False), verbose=verbose, quiet=quiet
    )
