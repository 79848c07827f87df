"""Words and numbers as all listeners write them."""

from __future__ import annotations

import os
import re
import sys
from typing import IO

from vllm_builder.events import Progress

# Escape sequences (colours, titles, links) and all other control characters but the tab.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x1b\\|\x07|$)|\x1b[@-Z\\-_]?|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)
_BYTES = {"b", "byte", "bytes"}


def clean(text: str) -> str:
    """``text`` without escape sequences and control characters; of ``a\\rb`` what a screen would show."""
    return _CONTROL.sub("", text.rstrip("\r\n").rpartition("\r")[2])


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: float) -> str:
    """Bytes in decimal units: ``812 B``, ``3.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or abs(number) >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def amount(progress: Progress) -> str:
    """``3/8 units``, ``1.2 MB of 8.1 MB``, ``17 files``."""
    if progress.unit.lower() in _BYTES:
        done = size(progress.done)
        return done if progress.total is None else f"{done} of {size(progress.total)}"
    done = f"{progress.done:g}"
    return (
        f"{done} {progress.unit}" if progress.total is None else f"{done}/{progress.total:g} {progress.unit}"
    )


def rate(per_second: float, unit: str) -> str:
    """``2.3 MB/s``, ``0.13/s``, or ``4.2/min`` for what is slow."""
    if unit.lower() in _BYTES:
        return f"{size(per_second)}/s"
    if per_second >= 0.995:
        return f"{per_second:.1f}/s"
    return f"{per_second * 60:.1f}/min"


def percent(progress: Progress) -> int | None:
    """0 to 100, rounded down; None without a total."""
    if not progress.total:
        return None
    return max(0, min(100, int(100 * progress.done / progress.total)))


def abandon(stream: IO[str]) -> None:
    """Point a stream whose reader has gone at nothing.

    What is still in its buffer is written at exit, and Python would complain then, after all is done.
    """
    try:
        fd = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):
        return
    try:
        os.dup2(null, fd)
    except OSError:
        pass
    finally:
        os.close(null)


def writes_unicode(stream: IO[str]) -> bool:
    """Whether the marks and bars can be written to ``stream``."""
    encoding = getattr(stream, "encoding", None) or sys.getdefaultencoding()
    try:
        "✓✗━⠋…".encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def paragraph(message: str) -> str:
    """Several lines as one, each cleaned."""
    return " ".join(clean(line).strip() for line in message.splitlines())
