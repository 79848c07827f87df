"""ninja's log of what it built: start, end, time stamp, output, hash of the command, one line per output.

Format and meaning: https://github.com/ninja-build/ninja/blob/master/src/build_log.cc (versions 4 to 7). Start and end are
milliseconds since that ninja began, which the log does not say; an output that was built again has a later line, until the
log is recompacted: then only the last one of each output is left, in no order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 30 * 24 * 3600.0
"""Seconds: more than that is a damaged line."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A command that ran. ``start`` and ``end`` are seconds since its ninja began, ``stamp`` seconds since 1970.

    ``stamp`` is when the command began (ninja 1.11 and later) or when its output was last written (older ones, and
    rules with ``restat``, which links have); 0 where there was no output.
    """

    start: float
    end: float
    stamp: float
    output: str
    command: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What stays the same when ``ninja -t restat`` changes time stamps."""
        return (self.output, self.start, self.end, self.command)


def edges(text: str) -> list[Edge]:
    """The commands of a log, in its order. Damaged lines count as nothing, as they do for ninja."""
    found: dict[tuple[str, ...], Edge] = {}
    for line in text.split("\n"):
        fields = line.split("\t")
        if line.startswith("#") or len(fields) != 5 or fields[3] == "build.ninja" or not fields[3]:
            continue
        numbers = [_number(field) for field in fields[:3]]
        if any(n is None for n in numbers):
            continue
        start, end, stamp = (n or 0 for n in numbers)
        if not start <= end <= _LONGEST * 1000:
            continue
        # A command with several outputs has a line for each; it is known by its times and its hash.
        key = (fields[0], fields[1], fields[4], fields[2])
        found.setdefault(key, Edge(start / 1000, end / 1000, _seconds(stamp), fields[3], fields[4]))
    return list(found.values())


def unique(found: Iterable[Edge]) -> list[Edge]:
    """Edges of several readings of one log, each once, as it was read first."""
    first: dict[tuple[object, ...], Edge] = {}
    for edge in found:
        first.setdefault(edge.key, edge)
    return list(first.values())


def _number(field: str) -> int | None:
    return int(field) if field.isascii() and field.isdigit() and len(field) < 20 else None


def _seconds(stamp: int) -> float:
    """ninja before 1.9 wrote seconds, later ones nanoseconds."""
    return stamp / 1e9 if stamp > 10**12 else float(stamp)
