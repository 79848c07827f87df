"""How the functions that edit tell what they did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """Files that an operation changed, or found as it wants them."""

    changed: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    put_back: dict[str, list[str]] = field(default_factory=dict)
    """Per file, the lines that a script deleted and that were kept."""
    note: str = ""


class Missed(Exception):
    """An operation found nothing to act on; its ``miss`` decides whether that is an error.

    Args:
        reason: continues "Nothing to change: ".
        target: the file or table itself is missing, not only what was looked for in it.
    """

    def __init__(self, reason: str, *, target: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.target = target
