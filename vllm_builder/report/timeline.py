"""Where in time each command of ninja's log ran. Nothing in here reads a file or a clock.

The log gives times since the beginning of a ninja, and not which ninja. That is found through the time stamp: less the
start (or, for what is stamped when it is written, less the end) it is the moment when its ninja began, and commands of
one ninja agree on it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_builder.report.ninjalog import Edge

_NEAR = 0.5
"""Seconds by which commands of one ninja may disagree on its beginning (file systems stamp coarsely)."""
_MOST = 200
"""Beginnings that are looked for: a log that has more is damaged, and must not take for ever."""
_OBJECTS = (".o", ".obj")
_LATE = 3.0
"""Seconds by which an output may have been written before its command ended, or a status line be read late."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An edge with the moment it began, in seconds since 1970."""

    edge: Edge
    began: float

    @property
    def ended(self) -> float:
        return self.began + self.edge.end - self.edge.start


def place(edges: Sequence[Edge], known: Iterable[float] = ()) -> list[Placed]:
    """Put edges to their moments, in the order they began.

    Args:
        edges: of one or many runs of ninja, in any order.
        known: moments at which a ninja is known to have begun, in seconds since 1970.
    """
    zeros = _zeros(edges, sorted(known))
    found, last = [], zeros[0] if zeros else 0.0
    for edge in edges:
        # Without a time stamp it ran with its neighbour in the log, which is a guess.
        last = zero = _zero_of(edge, zeros, last)
        found.append(Placed(edge, zero + edge.start))
    return sorted(found, key=lambda one: (one.began, one.ended, one.edge.output))


def slots(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A row for each span (start, end), so that none overlap in a row: the lowest that is free when it begins.

    Rows are as few as possible: as many as spans ran at once. Times that touch do not overlap.
    """
    rows: list[float] = []
    found = [0] * len(spans)
    for at in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, end = spans[at]
        row = next((i for i, free in enumerate(rows) if free <= start + 1e-6), len(rows))
        if row == len(rows):
            rows.append(end)
        else:
            rows[row] = max(end, rows[row])
        found[at] = row
    return found


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one span is under way."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _candidates(edge: Edge) -> tuple[float, float]:
    """When its ninja began, if it is stamped at its start, and if it is stamped at its end."""
    return edge.stamp - edge.start, edge.stamp - edge.end


def _zeros(edges: Sequence[Edge], known: Sequence[float]) -> list[float]:
    """The beginnings of all ninjas.

    First those on which objects agree, the most of them first: all of them are stamped at their start, or, once CMake
    has called ``ninja -t restat`` as it does when it generates, at their end. What is linked may be stamped either way in
    one log, so it is only asked where no beginning that was found fits it.
    """
    zeros: list[float] = []
    stamped = [edge for edge in edges if edge.stamp]
    # Where there is no object at all, whatever there is must do.
    left = [edge for edge in stamped if edge.output.endswith(_OBJECTS)] or stamped
    while left and len(zeros) < _MOST:
        votes = [_agreed(sorted(_candidates(edge)[way] for edge in left)) for way in (0, 1)]
        way = int(votes[1][0] > votes[0][0])
        count, zero = votes[way]
        if count == 1:
            break
        zeros.append(zero)
        left = [edge for edge in left if abs(_candidates(edge)[way] - zero) > _NEAR]
    left += [edge for edge in stamped if not edge.output.endswith(_OBJECTS)]
    for edge in left:
        if len(zeros) < _MOST and not any(_fits(edge, zero) for zero in zeros):
            zeros.append(_alone(edge, known))
    return sorted(zeros)


def _alone(edge: Edge, known: Sequence[float]) -> float:
    """The beginning of a ninja of which this one command is all there is: what is known, where that is near."""
    candidates = _candidates(edge)
    off, found = min(((abs(k - c), k) for k in known for c in candidates), default=(_LATE + 1, 0.0))
    return found if off <= _LATE else candidates[not edge.output.endswith(_OBJECTS)]


def _agreed(values: Sequence[float]) -> tuple[int, float]:
    """How many of some sorted values lie together at most, and the middle one of them."""
    first = 0
    best = (0, 0.0)
    for last, value in enumerate(values):
        while value - values[first] > _NEAR:
            first += 1
        if last - first + 1 > best[0]:
            best = (last - first + 1, values[(first + last) // 2])
    return best


def _fits(edge: Edge, zero: float) -> bool:
    by_start, by_end = _candidates(edge)
    return abs(by_start - zero) <= _NEAR or -_LATE <= by_end - zero <= _NEAR


def _zero_of(edge: Edge, zeros: Sequence[float], last: float) -> float:
    if not edge.stamp or not zeros:
        return last
    by_start, by_end = _candidates(edge)
    near = [zeros[i] for c in (by_start, by_end) for i in _around(zeros, c)]
    return min(near, key=lambda zero: min(abs(by_start - zero), abs(by_end - zero)))


def _around(zeros: Sequence[float], value: float) -> list[int]:
    at = bisect_right(zeros, value)
    return [i for i in (at - 1, at) if 0 <= i < len(zeros)]
