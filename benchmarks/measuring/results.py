"""Every value that was measured, in one JSON file, and what is computed from them."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring.model import Measured, Quantity, Ratio

SCHEMA = 1


class OtherRun(Exception):
    """The file holds values of other code or another machine, which must not be mixed with new ones."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several values. ``count`` is how many there were."""

    low: float
    middle: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None where there are no values."""
        if not values:
            return None
        return cls(min(values), statistics.median(values), max(values), len(values))


class Results:
    """``values[scenario][contender][pair]``, and ``absent[scenario][contender]``: why there is nothing.

    The file is written anew, whole or not at all, after each change.
    """

    def __init__(self, path: Path, *, code: str, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.code = code
        self.machine = dict(machine)
        self.values: dict[str, dict[str, dict[str, Measured]]] = {}
        self.absent: dict[str, dict[str, str]] = {}
        self.days: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises OSError, ValueError: there is no such file, or it is damaged."""
        found = json.loads(path.read_text("utf-8"))
        try:
            if found["schema"] != SCHEMA:
                raise ValueError(f"{path} has the schema {found['schema']}, not {SCHEMA}.")
            made = cls(path, code=str(found["code"]), machine=dict(found["machine"]))
            made.days = [str(day) for day in found["days"]]
            made.absent = {s: {c: str(w) for c, w in of.items()} for s, of in found["absent"].items()}
            made.values = {
                scenario: {
                    contender: {pair: Measured.of(value) for pair, value in pairs.items()}
                    for contender, pairs in contenders.items()
                }
                for scenario, contenders in found["values"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no results of this suite: {error!r}") from error
        return made

    @classmethod
    def resume(cls, path: Path, *, code: str, machine: Mapping[str, Any], fresh: bool = False) -> Results:
        """The results so far, or none; with ``fresh`` those of before are kept as ``NAME.before``.

        Raises:
            OtherRun: they are of other code or another machine.
            ValueError: the file is damaged.
        """
        made = cls(path, code=code, machine={"tools": {}, **machine})
        if not path.exists():
            return made
        if fresh:
            path.replace(path.with_name(f"{path.name}.before"))
            return made
        before = cls.read(path)
        # Other versions of the tools that others need are no other machine.
        before.machine["tools"] = made.machine.get("tools", {})
        differing = [name for name in ("code", "machine") if getattr(before, name) != getattr(made, name)]
        if differing:
            raise OtherRun(
                f"{path.name} was measured with another {' and another '.join(differing)}. "
                "--fresh measures all of it anew and keeps that file beside."
            )
        return before

    def has(self, scenario: str, contender: str, pair: str) -> bool:
        return pair in self.values.get(scenario, {}).get(contender, {})

    def add(self, scenario: str, contender: str, pair: str, value: Measured, *, day: str = "") -> None:
        self.values.setdefault(scenario, {}).setdefault(contender, {})[pair] = value
        self.absent.get(scenario, {}).pop(contender, None)
        if day and day not in self.days:
            self.days.append(day)
        self.write()

    def leave_out(self, scenario: str, contender: str, why: str) -> None:
        self.absent.setdefault(scenario, {})[contender] = why
        self.write()

    def seconds(self, scenario: str, contender: str) -> float | None:
        """What a run is expected to take: the longest so far."""
        return max((v.wall for v in self.values.get(scenario, {}).get(contender, {}).values()), default=None)

    def of(self, scenario: str, contender: str) -> dict[str, Measured]:
        return self.values.get(scenario, {}).get(contender, {})

    def spread(self, scenario: str, contender: str, quantity: Quantity) -> Spread | None:
        return Spread.of([getattr(value, quantity) for value in self.of(scenario, contender).values()])

    def ratios(self, scenario: str, ratio: Ratio) -> dict[str, float]:
        """Pair -> ratio, for the pairs that both have run; a denominator of 0 gives none."""
        over, under = self.of(scenario, ratio.over), self.of(scenario, ratio.under)
        found = {}
        for pair, value in over.items():
            below = getattr(under[pair], ratio.quantity) if pair in under else 0.0
            if below > 0:
                found[pair] = getattr(value, ratio.quantity) / below
        return {pair: one for pair, one in found.items() if math.isfinite(one)}

    @property
    def foreign(self) -> Spread | None:
        """How much of the machine's cores others used while something was measured that took a second or more."""
        return Spread.of(
            [
                value.foreign
                for contenders in self.values.values()
                for pairs in contenders.values()
                for value in pairs.values()
                if value.wall >= 1
            ]
        )

    def write(self) -> None:
        content = {
            "schema": SCHEMA,
            "code": self.code,
            "machine": self.machine,
            "days": self.days,
            "absent": {scenario: of for scenario, of in self.absent.items() if of},
            "values": {
                scenario: {
                    contender: {pair: value.as_dict() for pair, value in pairs.items()}
                    for contender, pairs in contenders.items()
                }
                for scenario, contenders in self.values.items()
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        half.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        half.replace(self.path)
