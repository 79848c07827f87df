"""Numbers as a person reads them: a number and its unit are never parted at the end of a line."""

from __future__ import annotations

from html import escape

__all__ = ["change", "duration", "escape", "memory", "percent", "times"]

_NB = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def duration(seconds: float) -> str:
    """``0.25 s``, ``12.3 s``, ``3m 05s``, ``2h 10m``."""
    if seconds < 9.995:
        return f"{seconds:.2f}{_NB}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{_NB}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{_NB}{minutes:02}m" if hours else f"{minutes}m{_NB}{rest:02}s"


def memory(count: float) -> str:
    """Bytes: ``712 MiB``, ``3.41 GiB``."""
    return f"{count / (1 << 30):.2f}{_NB}GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f}{_NB}MiB"


def percent(part: float, whole: float) -> str:
    """``94 %``, ``3.4 %``; empty where there is no whole."""
    if not whole:
        return ""
    share = 100 * part / whole
    if part and share < 0.05:
        return f"<{_NB}0.1{_NB}%"
    return f"{share:.0f}{_NB}%" if share >= 9.5 or not part else f"{share:.1f}{_NB}%"


def change(before: float, now: float) -> str:
    """``+12.3 s (+8 %)``; ``the same`` where nothing that shows has changed."""
    if duration(before) == duration(now):
        return "the same"
    sign = "+" if now > before else _MINUS
    share = f" ({sign}{abs(100 * (now - before) / before):.0f}{_NB}%)" if before > 0 else ""
    return f"{sign}{duration(abs(now - before))}{share}"


def times(count: int, word: str) -> str:
    """``1 unit``, ``1 000 units``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}".replace(",", "\N{NARROW NO-BREAK SPACE}")
