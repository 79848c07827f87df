"""What ninja does with a build.ninja, in memory: which command starts when, with ``-j`` and pools.

After ninja 1.13 (src/build.cc, src/state.cc, src/graph.h): commands that can run wait in a queue, the one with the
longest chain of commands behind it first, then the one that stands first in the file. A pool lets in as many commands
as its depth, in the same order; the others wait outside until one of the pool has ended. Being let in is not yet
running: that needs one of the ``-j`` slots. tests/compile/test_replay_ninja.py holds this against a real ninja.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_PATH = r"(?:\$.|[^\s$:|])+"
_BUILD = re.compile(rf"^build (?P<outputs>{_PATH}(?: \|? ?{_PATH})*) ?: (?P<rule>\S+)(?P<inputs>.*)$")


@dataclass(slots=True)
class Edge:
    """One build statement. ``inputs``: all that must be there before it starts, of whatever kind."""

    number: int
    rule: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    pool: str = ""
    weight: int = 0
    """Commands on the longest chain from here to a target, itself included."""

    @property
    def name(self) -> str:
        return self.outputs[0]


@dataclass(frozen=True, slots=True)
class Run:
    """What one ninja did. Times are seconds since it began, memory is in bytes."""

    makespan: float
    memory: int
    """The most that all commands together held at one moment, each its peak for as long as it ran."""
    started: tuple[tuple[float, str], ...]
    """When each command began, with its first output, in order."""


@dataclass(slots=True)
class _Pool:
    depth: int
    used: int = 0
    waiting: list[tuple[int, int]] = field(default_factory=list)


def parse(text: str) -> tuple[list[Edge], dict[str, int]]:
    """Edges in the file's order, and pools with their depths. Paths are unescaped; variables are not expanded."""
    edges: list[Edge] = []
    pools: dict[str, int] = {}
    pool = ""
    edge: Edge | None = None
    for line in text.splitlines():
        if (match := _BUILD.match(line)) is not None:
            outputs, inputs = (_paths(match[name]) for name in ("outputs", "inputs"))
            edge, pool = Edge(len(edges), match["rule"], outputs, inputs), ""
            edges.append(edge)
        elif line.startswith("pool "):
            edge, pool = None, line.split()[1]
        elif line.startswith("  "):
            name, _, value = line.strip().partition(" = ")
            if pool and name == "depth":
                pools[pool] = int(value)
            elif edge is not None and name == "pool":
                edge.pool = value.strip()
        elif line.strip() and not line.startswith("#"):
            edge, pool = None, ""
    return edges, pools


def _paths(text: str) -> tuple[str, ...]:
    found = re.findall(r"(?:\$.|[^\s$|@])+", text)
    return tuple(re.sub(r"\$(.)", r"\1", path) for path in found)


def simulate(
    text: str,
    jobs: int,
    seconds: Callable[[Edge], float],
    memory: Callable[[Edge], int] = lambda edge: 0,
    targets: Iterable[str] = (),
) -> Run:
    """Run a build.ninja in which nothing is built yet.

    Args:
        text: the file.
        jobs: ninja's ``-j``.
        seconds: how long a command runs.
        memory: bytes that it holds meanwhile.
        targets: what is to be built; all that nothing else needs where there are none.
    """
    edges, depths = parse(text)
    made_by = {output: edge for edge in edges for output in edge.outputs}
    # A phony statement that nothing has to be made for is no matter to ninja.
    for edge in edges:
        if edge.rule == "phony" and not any(i in made_by for i in edge.inputs):
            made_by = {output: other for output, other in made_by.items() if other is not edge}
    wanted = _wanted(edges, made_by, tuple(targets))
    followers: dict[int, list[Edge]] = defaultdict(list)
    missing: dict[int, int] = {}
    for edge in wanted:
        before = {made_by[i].number for i in edge.inputs if i in made_by}
        missing[edge.number] = len(before)
        for number in before:
            followers[number].append(edge)
    pools = {name: _Pool(depth) for name, depth in depths.items() if depth} | {"console": _Pool(1)}
    ready: list[tuple[int, int]] = []
    by_number = {edge.number: edge for edge in wanted}

    def retrieve(pool: _Pool) -> None:
        while pool.waiting and pool.used < pool.depth:
            heapq.heappush(ready, heapq.heappop(pool.waiting))
            pool.used += 1

    def schedule(found: Iterable[Edge], *, together: bool = False) -> None:
        # At the beginning ninja lets commands into pools after it has seen them all, later one by one.
        touched = []
        for edge in found:
            rank = (-edge.weight, edge.number)
            if (pool := pools.get(edge.pool)) is None:
                heapq.heappush(ready, rank)
                continue
            heapq.heappush(pool.waiting, rank)
            touched.append(pool)
            if not together:
                retrieve(pool)
        for pool in touched:
            retrieve(pool)

    def finished(edge: Edge) -> None:
        if (pool := pools.get(edge.pool)) is not None:
            pool.used -= 1
            retrieve(pool)
        following = []
        for other in followers[edge.number]:
            missing[other.number] -= 1
            if not missing[other.number]:
                following.append(other)
        schedule(following)

    now, held, most = 0.0, 0, 0
    running: list[tuple[float, int, int]] = []
    started: list[tuple[float, str]] = []
    schedule((edge for edge in wanted if not missing[edge.number]), together=True)
    while ready or running:
        while ready and len(running) < jobs:
            edge = by_number[heapq.heappop(ready)[1]]
            if edge.rule == "phony":
                finished(edge)
                continue
            needs = memory(edge)
            heapq.heappush(running, (now + seconds(edge), edge.number, needs))
            started.append((now, edge.name))
            held += needs
            most = max(most, held)
        if running:
            now, number, needs = heapq.heappop(running)
            held -= needs
            finished(by_number[number])
    return Run(now, most, tuple(started))


def _wanted(edges: list[Edge], made_by: Mapping[str, Edge], targets: tuple[str, ...]) -> list[Edge]:
    """The edges that the targets need, in the file's order, with their weights."""
    if not targets:
        needed = {i for edge in edges for i in edge.inputs}
        targets = tuple(e.name for e in edges if not needed & set(e.outputs))
    order: list[Edge] = []
    seen: set[int] = set()
    stack = [(made_by[t], False) for t in reversed(targets) if t in made_by]
    while stack:
        edge, done = stack.pop()
        if done:
            order.append(edge)
        elif edge.number not in seen:
            seen.add(edge.number)
            stack.append((edge, True))
            stack += [(made_by[i], False) for i in edge.inputs if i in made_by]
    for edge in order:
        edge.weight = _cost(edge)
    for edge in reversed(order):
        for before in (made_by[i] for i in edge.inputs if i in made_by):
            before.weight = max(before.weight, edge.weight + _cost(before))
    return sorted(order, key=lambda edge: edge.number)


def _cost(edge: Edge) -> int:
    return 0 if edge.rule == "phony" else 1
