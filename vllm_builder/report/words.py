"""Numbers as a person reads them, and the little HTML that charts and tables share."""

from __future__ import annotations

from html import escape

__all__ = ["change", "duration", "escape", "memory", "percent", "times"]


def duration(seconds: float) -> str:
    """``0.25 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(count: float) -> str:
    """Bytes: ``712 MiB``, ``3.41 GiB``."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def percent(part: float, whole: float) -> str:
    if not whole:
        return ""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 9.5 or not part else f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"


def change(before: float, now: float) -> str:
    """``+12.3 s (+8 %)``; ``the same`` where nothing that shows has changed."""
    if duration(before) == duration(now):
        return "the same"
    sign = "+" if now > before else "\N{MINUS SIGN}"
    return f"{sign}{duration(abs(now - before))}{_relative(before, now)}"


def _relative(before: float, now: float) -> str:
    if before <= 0:
        return ""
    share = 100 * (now - before) / before
    return f" ({'+' if share > 0 else chr(0x2212)}{abs(share):.0f} %)"


def times(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}".replace(",", "\N{NARROW NO-BREAK SPACE}")
