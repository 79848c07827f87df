"""Variables of CMake code that is only read: a value may be known, unset or unknown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vllm_builder.stages.patch.cmake import Argument

UNKNOWN = None
"""The value of a variable, or the truth of a condition, that only a real configure run can tell."""
Value = str | None
_REFERENCE = re.compile(r"\$(?P<kind>ENV|CACHE)?\{(?P<name>[^${}]*)\}")
_ESCAPE = re.compile(r"\\([^A-Za-z0-9]|[trn])")
_NAMED = {"t": "\t", "r": "\r", "n": "\n"}


@dataclass(slots=True)
class World:
    """What holds for the whole run.

    ``facts`` are variables whose values are given; nothing the code does changes them. ``own`` are names that
    the tree's own files set somewhere: before that they are unset. Any other name may be set by CMake itself,
    by a module or by a package, and is unknown.
    """

    facts: Mapping[str, str]
    own: Collection[str]


@dataclass(slots=True)
class Scope:
    """The variables of one function call or of the top level, on top of its caller's."""

    world: World
    variables: dict[str, Value] = field(default_factory=dict)
    environment: dict[str, Value] = field(default_factory=dict)
    parent: Scope | None = None

    def get(self, name: str) -> Value:
        """The value; unset is the empty text."""
        if name in self.world.facts:
            return self.world.facts[name]
        if name in self.variables:
            return self.variables[name]
        return "" if name in self.world.own else UNKNOWN

    def defined(self, name: str) -> bool | None:
        if name in self.world.facts:
            return True
        if name in self.variables:
            return None if self.variables[name] is UNKNOWN else True
        return False if name in self.world.own else None

    def set(self, name: str, value: Value) -> None:
        if name not in self.world.facts:
            self.variables[name] = value

    def unset(self, name: str) -> None:
        self.variables.pop(name, None)

    def call(self) -> Scope:
        """The scope of a function called from here."""
        return Scope(self.world, dict(self.variables), self.environment, self)

    def copy(self) -> Scope:
        """A copy in which a branch can be tried, callers included."""
        parent = self.parent.copy() if self.parent else None
        environment = parent.environment if parent else dict(self.environment)
        return Scope(self.world, dict(self.variables), environment, parent)

    def become(self, outcomes: Sequence[Scope]) -> None:
        """Take over what all outcomes agree on; the rest is unknown."""
        self.variables = _agreed([outcome.variables for outcome in outcomes])
        agreed = _agreed([outcome.environment for outcome in outcomes])
        self.environment.clear()
        self.environment.update(agreed)
        if self.parent:
            self.parent.become([outcome.parent for outcome in outcomes if outcome.parent])

    # -- arguments ----------------------------------------------------------------------------
    def expand(self, text: str) -> Value:
        """Replace all variable references and escapes; unknown if any of them is."""
        for _ in range(50):
            match = _REFERENCE.search(text)
            if match is None:
                break
            name, kind = match["name"], match["kind"]
            value = self.environment.get(name, "") if kind == "ENV" else self.get(name)
            if value is UNKNOWN:
                return UNKNOWN
            text = text[: match.start()] + value.replace("\\", "\\\\") + text[match.end() :]
        return _ESCAPE.sub(lambda found: _NAMED.get(found[1], found[1]), text)

    def values(self, arguments: Sequence[Argument]) -> list[Value]:
        """Arguments as a command gets them: lists in unquoted ones become several, empty ones vanish."""
        return [value for argument in arguments for value in self.split(argument)]

    def split(self, argument: Argument) -> Iterator[Value]:
        value = self.expand(argument.value)
        if argument.quoted or value is UNKNOWN:
            yield value
        else:
            yield from (item for item in re.split(r"(?<!\\);", value) if item)


def _agreed(outcomes: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    missing = object()
    found: dict[str, Value] = {}
    for name in {name for outcome in outcomes for name in outcome}:
        values = {outcome.get(name, missing) for outcome in outcomes}
        value = next(iter(values))
        found[name] = value if len(values) == 1 and isinstance(value, str) else UNKNOWN
    return found
