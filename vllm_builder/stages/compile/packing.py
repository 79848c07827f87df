"""Which units run together: the arithmetic behind the order of compilation, with the standard library alone.

Two kinds of schedule, each safe whatever the units' times turn out to be, as long as their peaks are right:

- :func:`choose`: ``jobs`` compilers, and one pool that bounds how many heavy ones are among them. What runs next is
  decided while compiling, so wrong times cost little; but light units may never use what heavy ones leave free.
- :func:`packed`: every unit is started when others have left enough memory, and which those are is settled before.
  In the replay of a whole wheel (benchmarks/replay.py: 140 units, 4 to 64 cores with 1.5 to 4 GiB each) that ends at
  1.00 to 1.03 times the bound and the pool at 1.00 to 1.92 times; with every time wrong by 20 %, at 1.00 to 1.24 and
  1.00 to 1.93 times. Pools alone cannot do it: they share memory out for the worst moment, once for the whole build.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

GIB = 1 << 30
_STEP = GIB // 4
_TRIES = 400_000
"""Units that are placed in the search for a good order, which takes a second or two."""
_ORDERS = 6000
"""Orders that are tried at most, where there are few units."""
_NEAR = 1.005
"""Near enough to the bound to stop searching."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a translation unit is expected to take."""

    seconds: float
    peak: int
    """Bytes."""
    known: bool = False
    """The peak was measured, of this very content, and not guessed."""
    timed: bool = False
    """The time was measured with this toolchain, if not of this very content."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """``jobs`` compilers at once, of which at most ``depth`` on units with a peak over ``limit`` bytes.

    ``depth`` 0: there is no such unit.
    """

    jobs: int
    limit: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Packing:
    """For each unit, in the order given: when it is expected to start, and after which others (their places)."""

    starts: tuple[float, ...]
    after: tuple[frozenset[int], ...]
    seconds: float
    """When the last unit is expected to have ended."""


def classed(unit: Unit, jobs: int, memory: int, *, fixed: bool, step: int = _STEP) -> Unit:
    """A unit with its peak rounded up, so that there are few classes to try and a bound still holds.

    With ``fixed`` (``jobs`` was asked for) a peak that was only guessed is no reason to run fewer: it counts
    as a job's equal share of memory at most.
    """
    if fixed and not unit.known:
        return replace(unit, peak=min(unit.peak, memory // max(1, jobs)))
    return replace(unit, peak=math.ceil(unit.peak / step) * step)


def choose(units: Sequence[Unit], jobs: int, memory: int, *, fixed: bool = False) -> Schedule:
    """The schedule that ends first among those whose worst moment fits into ``memory``.

    In the worst moment ``depth`` of the largest units run beside light ones that are as large as light units
    may be. Where nothing fits, one heavy unit at a time is the least that can be done.

    Args:
        units: what is to be compiled, see :func:`classed`.
        jobs: most compilers at once.
        memory: bytes for all of them.
        fixed: ``jobs`` was asked for and stays.
    """
    total, longest = sum(u.seconds for u in units), max((u.seconds for u in units), default=0.0)
    largest = max((u.peak for u in units), default=0)
    best: tuple[float, bool, int, int] | None = None
    found = Schedule(jobs, memory // max(1, jobs), 1) if fixed else Schedule(1)
    limits = sorted({0, *(u.peak for u in units)})
    for count in [jobs] if fixed else range(jobs, 0, -1):
        for limit in limits:
            room = memory - count * limit
            if room < 0:
                break
            if limit >= largest:
                depth, cost = count, max(total / count, longest)
            else:
                depth = min(count, room // (largest - limit))
                if depth < 1:
                    continue
                heavy = sum(u.seconds for u in units if u.peak > limit)
                cost = max(total / (count if limit else depth), heavy / depth, longest)
            # Where fewer jobs and a pool come to the same, fewer jobs are the plainer words.
            rank = (cost, limit == 0, -count, -limit)
            if best is None or rank < best:
                best, found = rank, Schedule(count, limit, 0 if depth >= count else depth)
    return found


def pooled_seconds(units: Sequence[Unit], schedule: Schedule) -> float:
    """When the last unit ends under a :class:`Schedule`, longest first."""
    depth = schedule.depth or schedule.jobs
    light: list[float] = []
    heavy: list[float] = []
    for unit in units:
        (heavy if unit.peak > schedule.limit else light).append(unit.seconds)
    light.sort()
    heavy.sort()
    now, running, inside = 0.0, list[tuple[float, bool]](), 0
    while light or heavy or running:
        while len(running) < schedule.jobs and (light or (heavy and inside < depth)):
            one = bool(heavy) and inside < depth and (not light or heavy[-1] >= light[-1])
            inside += one
            heapq.heappush(running, (now + (heavy if one else light).pop(), one))
        now, one = heapq.heappop(running)
        inside -= one
    return now


def bound(units: Sequence[Unit], jobs: int, memory: int) -> float:
    """Seconds that no order can do with less.

    That is the most of: all work over ``jobs``; the longest unit; and what memory makes unavoidable. For the last,
    each unit gets a weight such that the weights of units which fit into memory together are never more than 1 in sum;
    then the sum of seconds times weights is a bound. The share of memory is such a weight, and so are the roundings of
    it that Fekete and Schepers gave for packing ("New classes of fast lower bounds for bin packing problems", 2001):
    of units over a third of memory two run at once, and where one of them takes more than two thirds, no other.
    """
    if not units:
        return 0.0
    shares: dict[float, float] = {}
    for unit in units:
        share = min(1.0, unit.peak / memory)
        shares[share] = shares.get(share, 0.0) + unit.seconds
    found = max(sum(shares.values()) / jobs, *(unit.seconds for unit in units))
    for small in {0.0, *(share for share in shares if share <= 0.5)}:
        # What is larger than all but a small unit counts as all; what is smaller than the small one counts nothing.
        cut = [(1.0 if s > 1 - small else s if s >= small else 0.0, t) for s, t in shares.items()]
        found = max(found, sum(s * t for s, t in cut))
        for most in range(1, min(2 * jobs, 64) + 1):
            found = max(found, sum(_rounded(s, most) * t for s, t in cut))
    return found


def _rounded(share: float, most: int) -> float:
    """Fekete and Schepers' u(k): of units over 1/(k+1) of memory k run at once; multiples of that stay as they are."""
    scaled = (most + 1) * share
    return share if abs(scaled - round(scaled)) < 1e-9 else math.floor(scaled) / most


def packed(units: Sequence[Unit], jobs: int, memory: int, *, tries: int = _TRIES) -> Packing:
    """A packing that ends early: the best of some orders, and of random changes of those (always the same ones).

    A unit that needs more than all memory runs alone.

    Args:
        units: what is to be compiled.
        jobs: most compilers at once.
        memory: bytes for all of them.
        tries: how many units may be placed in the search.
    """
    units = [replace(u, peak=min(u.peak, memory)) for u in units]
    goal = bound(units, jobs, memory) * _NEAR
    keys: list[Callable[[Unit], float]] = [
        lambda u, power=power: u.seconds * float(u.peak) ** power  # type: ignore[misc]
        for power in (0.0, 0.5, 1.0, 2.0, 8.0)
    ]
    dice = random.Random(0)
    best: tuple[float, list[int], list[float]] | None = None
    values: list[float] = []
    for attempt in range(max(len(keys), min(_ORDERS, tries // max(1, len(units))))):
        if attempt < len(keys):
            tried = [keys[attempt](unit) for unit in units]
        else:
            share, change = dice.choice(((1.0, 0.05), (1.0, 0.3), (0.1, 1.0), (0.02, 2.0)))
            tried = [v * math.exp(dice.gauss(0, change)) if dice.random() < share else v for v in values]
        order = sorted(range(len(units)), key=lambda i: -tried[i])
        seconds, starts = _placed(units, order, jobs, memory)
        if best is None or seconds < best[0]:
            best, values = (seconds, order, starts), tried
        if best[0] <= goal:
            break
    seconds, order, starts = best or (0.0, [], [])
    return Packing(tuple(starts), _after(units, order, starts, jobs, memory), seconds)


def _placed(units: Sequence[Unit], order: Sequence[int], jobs: int, memory: int) -> tuple[float, list[float]]:
    """Start each unit, in this order, as soon as it fits; later ones may go first meanwhile."""
    waiting = list(order)
    starts = [0.0] * len(units)
    running: list[tuple[float, int]] = []
    now, free = 0.0, memory
    while waiting or running:
        if len(running) < jobs and waiting:
            still = []
            for at, i in enumerate(waiting):
                if len(running) == jobs:
                    still += waiting[at:]
                    break
                if units[i].peak <= free:
                    heapq.heappush(running, (now + units[i].seconds, i))
                    starts[i] = now
                    free -= units[i].peak
                else:
                    still.append(i)
            waiting = still
        now, i = heapq.heappop(running)
        free += units[i].peak
    return now, starts


def _after(
    units: Sequence[Unit], order: Sequence[int], starts: Sequence[float], jobs: int, memory: int
) -> tuple[frozenset[int], ...]:
    """Which units each has to wait for, so that memory and jobs suffice however long any of them takes.

    Memory and jobs are handed on: a unit takes its share from those that ended before it starts, and waits for
    exactly these. So what runs at one moment holds distinct parts of what there is.
    """
    rank = {i: at for at, i in enumerate(order)}
    after: list[frozenset[int]] = [frozenset()] * len(units)
    # Whom a part of memory was taken from last (-1: nobody), when that ends, its bytes and its jobs.
    parts: list[tuple[int, float, int, int]] = [(-1, 0.0, memory, jobs)]
    for i in sorted(rank, key=lambda i: (starts[i], rank[i])):
        there = [p for p in parts if p[1] <= starts[i]]
        parts = [p for p in parts if p[1] > starts[i]]
        need, job, whom = units[i].peak, 1, set[int]()
        while need or job:
            usable = [p for p in there if (p[3] if job else p[2])]
            # The one whose memory is just enough, else the most; what nobody held first.
            enough = [p for p in usable if p[2] >= need]
            part = (
                min(enough, key=lambda p: (p[0] >= 0, p[2], p[1]))
                if enough
                else max(usable, key=lambda p: p[2])
            )
            there.remove(part)
            holder, end, size, slots = part
            taken = min(size, need)
            whom.add(holder)
            if size > taken or slots > job:
                there.append((holder, end, size - taken, slots - job))
            need, job = need - taken, 0
        parts += [*there, (i, starts[i] + units[i].seconds, units[i].peak, 1)]
        after[i] = frozenset(whom - {-1})
    return tuple(after)
