"""The least time that units can take, over all sets of them that fit into a machine together.

At each moment the running units are a set that fits: no more than there are cores, and not over memory. However long
each such set runs, every unit's time has to be covered. The least total of that is a linear program, a bound on every
order, and what the classical bounds miss: sets that fill the cores leave memory, and the other way round. It is solved by
making columns as they are needed (Gilmore and Gomory, 1961), and what its prices prove on the way is a bound at any
moment (Farley, 1990), so rounding errors and an early end cannot make it too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_builder.stages.compile.packing import GIB, Unit

_STEP = GIB // 16
_ROUNDS = 500


def least(units: Sequence[Unit], cores: int, memory: int) -> float:
    """Seconds. Peaks are rounded down to 64 MiB, so that it stays a bound; a unit over all memory counts as all."""
    room = memory // _STEP
    work: dict[int, float] = {}
    for unit in units:
        size = min(memory, unit.peak) // _STEP
        work[size] = work.get(size, 0.0) + unit.seconds
    sizes, times = list(work), list(work.values())
    # At first each size runs with its own kind alone. ``inverse`` is that of the matrix of sets.
    alone = [min(cores, room // size) if size else cores for size in sizes]
    many = range(len(sizes))
    inverse = [[1.0 / alone[i] if i == j else 0.0 for j in many] for i in many]
    found = 0.0
    for _ in range(_ROUNDS):
        prices = [sum(row[j] for row in inverse) for j in many]
        worth, column = _dearest(dict(zip(sizes, prices, strict=True)), cores, room)
        if worth <= 0:
            break
        found = max(found, sum(max(0.0, p) * t for p, t in zip(prices, times, strict=True)) / worth)
        if worth <= 1 + 1e-6:
            break
        counts = [column.get(size, 0) for size in sizes]
        change = [sum(a * b for a, b in zip(row, counts, strict=True)) for row in inverse]
        runs = [sum(a * b for a, b in zip(row, times, strict=True)) for row in inverse]
        _, out = min((runs[i] / change[i], i) for i in many if change[i] > 1e-9)
        inverse[out] = [value / change[out] for value in inverse[out]]
        for i in many:
            if i != out and change[i]:
                inverse[i] = [a - change[i] * b for a, b in zip(inverse[i], inverse[out], strict=True)]
    return found


def _dearest(prices: Mapping[int, float], cores: int, room: int) -> tuple[float, dict[int, int]]:
    """The set that fits and whose prices are the most in sum: that sum, and how many of each size."""
    best = [0.0] * (room + 1)
    picks: list[list[int]] = []
    for _ in range(cores):
        before, best, pick = best, best[:], [-1] * (room + 1)
        for size, price in prices.items():
            if price <= 1e-12:
                continue
            for used in range(size, room + 1):
                if (value := before[used - size] + price) > best[used] + 1e-12:
                    best[used], pick[used] = value, size
        picks.append(pick)
    used, column = room, dict[int, int]()
    for pick in reversed(picks):
        if (size := pick[used]) >= 0:
            column[size] = column.get(size, 0) + 1
            used -= size
    return best[room], column
