"""What is measured: scenarios, the contenders in them, and the ratios that are taken between those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Quantity = Literal["wall", "cpu"]


class Unavailable(Exception):
    """A contender cannot do the job on this machine; the message is a sentence for the table."""


class Failed(Exception):
    """A contender that should have done the job did not."""


class TooLate(Exception):
    """The time of the whole suite ran out while a contender was at work; nothing is kept of it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one contender.

    ``wall`` and ``cpu`` are seconds, ``cpu`` of all processes that it started; ``foreign`` is the share of the
    machine's cores that other processes used meanwhile, from 0 to 1.
    """

    wall: float
    cpu: float
    foreign: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "wall": round(self.wall, 3),
            "cpu": round(self.cpu, 3),
            "foreign": round(self.foreign, 3),
            "facts": dict(self.facts),
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Measured:
        """Raises KeyError, TypeError, ValueError: it is none."""
        return cls(float(found["wall"]), float(found["cpu"]), float(found["foreign"]), dict(found["facts"]))


def _no_note(_: Sequence[Mapping[str, Any]]) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the job. ``measure`` gets a pair's name, prepares what is not measured, and runs it once.

    ``after`` names a contender that has to go first in each pair; ``seconds`` is what it is guessed to take, for the
    first time; ``note`` says in the table what the facts of all its runs come to.
    """

    name: str
    label: str
    measure: Callable[[str], Measured]
    seconds: float = 0.0
    after: str = ""
    note: Callable[[Sequence[Mapping[str, Any]]], str] = _no_note
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio that is taken pair by pair; with a ``goal`` the median is to be at most that."""

    label: str
    over: str
    under: str
    goal: float | None = None
    quantity: Quantity = "wall"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Contenders that do the same job. ``rounds`` are pairs' names, those that belong to one round together.

    ``heavy``: further rounds come after those of the others. ``quantity`` is what is drawn.
    """

    name: str
    title: str
    text: str
    contenders: tuple[Contender, ...]
    ratios: tuple[Ratio, ...]
    rounds: tuple[tuple[str, ...], ...]
    prepare: Callable[[], None] = lambda: None
    prepare_seconds: float = 0.0
    heavy: bool = False
    quantity: Quantity = "wall"

    @property
    def pairs(self) -> tuple[str, ...]:
        return tuple(pair for pairs in self.rounds for pair in pairs)

    def turns(self, pair: str) -> list[Contender]:
        """All contenders in the order in which they go in this pair: each goes first as often as the others do."""
        free = [one for one in self.contenders if not one.after]
        first = self.pairs.index(pair) % len(free)
        order = [*free[first:], *free[:first]]
        for one in self.contenders:
            if one.after:
                at = next(i for i, other in enumerate(order) if other.name == one.after)
                order.insert(at + 1, one)
        return order
