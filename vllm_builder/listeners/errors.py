"""How an error is shown: what happened, why, the details, and what to do next."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from vllm_builder.errors import BuilderError
from vllm_builder.listeners import text

if TYPE_CHECKING:
    from rich.console import Console


def format_error(error: BuilderError, *, width: int = 80) -> str:
    """The error as plain text, without a line end.

    Prose is wrapped at ``width`` columns; details are not, so that a compiler's line or a path can be
    copied whole.
    """
    return "\n".join(line for _, line in _lines(error, width))


def render_error(error: BuilderError, console: Console) -> None:
    """Print the error on a rich console; a console whose reader has gone is no second error."""
    from rich.text import Text

    styles = {"what": "bold red", "why": "", "detail": "dim", "next": "bold"}
    try:
        for part, line in _lines(error, console.width):
            shown = Text(line, style=styles[part])
            if part == "what" and line.startswith("error:"):
                shown.stylize("bold white on red" if not console.no_color else "bold", 0, 6)
            # soft_wrap: a line that is too long goes on in the next row and stays one line when copied.
            console.print(shown, soft_wrap=True, highlight=False, markup=False)
    except (OSError, ValueError, SystemExit):
        # rich ends the program on a closed pipe; the exit code of the error matters more.
        text.abandon(console.file)


def _lines(error: BuilderError, width: int) -> list[tuple[str, str]]:
    width = max(width, 40)
    lines = [("what", line) for line in _wrapped("error: ", error.what, width)]
    if error.why:
        lines += [("why", line) for line in _wrapped("  why:  ", error.why, width)]
    lines += [("detail", f"    {text.clean(line)}".rstrip()) for d in error.details for line in _split(d)]
    if error.next:
        lines += [("next", line) for line in _wrapped("  next: ", error.next, width)]
    if error.report:
        lines.append(("detail", f"  report: {text.clean(error.report)}"))
    return lines


def _split(detail: str) -> list[str]:
    return detail.splitlines() or [""]


def _wrapped(label: str, prose: str, width: int) -> list[str]:
    """Paragraphs with a hanging indent; words (paths, commands) are never broken."""
    indent = " " * len(label)
    lines: list[str] = []
    for paragraph in prose.splitlines() or [""]:
        lines += textwrap.wrap(
            text.clean(paragraph),
            width,
            initial_indent=indent if lines else label,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [indent if lines else label.rstrip()]
    return lines
