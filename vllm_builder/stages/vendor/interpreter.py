"""Walk a release's CMake code without running it, and note what it would fetch.

Commands that set variables are followed where that is simple and make their results unknown where it is not.
Both sides of a condition that cannot be decided are walked; code that is certainly not reached is walked too,
on a copy of the variables, so that everything that is declared is found.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from vllm_builder.stages.patch.cmake import Argument, Block, Branch, CMakeFile, Command, Statement
from vllm_builder.stages.vendor.conditions import Truth, both, evaluate, negation
from vllm_builder.stages.vendor.followed import HANDLERS
from vllm_builder.stages.vendor.scope import UNKNOWN, Scope, Value, World

SOURCE: Final = "/source"
"""What CMAKE_SOURCE_DIR is taken to be."""
BINARY: Final = "/binary"
NO, MAYBE, YES = 0, 1, 2
_DEPTH = 40
_ROUNDS = 200
_NAME = re.compile(r"[A-Za-z_]\w*")
_SETS_NOTHING = frozenset(
    ("message", "project", "install", "enable_language", "cmake_minimum_required", "cmake_policy", "set_property",
     "set_source_files_properties", "set_target_properties", "export", "enable_testing", "mark_as_advanced")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reached:
    """One FetchContent call as it was come upon."""

    command: str
    file: str
    line: int
    level: int
    """:data:`YES`, :data:`MAYBE` or :data:`NO`."""
    values: tuple[tuple[Value, ...], ...]
    """Per argument, what it stands for."""
    arguments: tuple[Argument, ...]
    conditions: tuple[str, ...]
    undecided: tuple[str, ...]


@dataclass(slots=True)
class _End:
    """How a run of statements ended: ``level`` of what comes after, and whether it ended in an error."""

    level: int
    fatal: bool = False


@dataclass(slots=True)
class Interpreter:
    """Args:
    files: the tree's CMake files by path from its root.
    exists: whether a path of the tree exists, unknown where that cannot be said.
    contents: what files outside the tree hold, for ``cat``.
    """

    world: World
    files: Mapping[str, bytes]
    contents: Mapping[str, str] = field(default_factory=dict)
    reached: list[Reached] = field(default_factory=list)
    _parsed: dict[str, tuple[Statement, ...]] = field(default_factory=dict)
    _functions: dict[str, tuple[str, str, Branch]] = field(default_factory=dict)
    _conditions: list[tuple[str, Truth]] = field(default_factory=list)
    _depth: int = 0

    def run_file(self, path: str, scope: Scope, level: int) -> _End:
        if path not in self._parsed:
            self._parsed[path] = CMakeFile(self.files[path], path).statements()
        outer = scope.variables.get("CMAKE_CURRENT_LIST_DIR", SOURCE)
        scope.set("CMAKE_CURRENT_LIST_DIR", posixpath.join(SOURCE, posixpath.dirname(path)).rstrip("/"))
        end = self.run(self._parsed[path], path, scope, level)
        scope.set("CMAKE_CURRENT_LIST_DIR", outer)
        return end

    # -- statements ---------------------------------------------------------------------------
    def run(self, statements: Sequence[Statement], file: str, scope: Scope, level: int) -> _End:
        marks = len(self._conditions)
        now, fatal, apart = level, False, level == NO
        for statement in statements:
            if now == NO and not apart:
                scope, apart = scope.copy(), True
            if isinstance(statement, Block):
                end = self.block(statement, file, scope, now)
                line = statement.branches[0].command.line if statement.branches[0].command else 0
            else:
                end = self.command(statement, file, scope, now)
                line = statement.line
            if end.level < now:
                fatal = end.fatal
                after = "stopped" if end.fatal else "returned"
                self._conditions.append(
                    (f"NOT {after} at {file}:{line}", False if end.level == NO else UNKNOWN)
                )
                now = end.level
        del self._conditions[marks:]
        return _End(now, fatal and now == NO)

    def block(self, block: Block, file: str, scope: Scope, level: int) -> _End:
        first = block.branches[0]
        if block.kind == "if":
            return self.choice(block, file, scope, level)
        if block.kind in {"function", "macro"}:
            if first.command and first.command.arguments and level != NO:
                name = first.command.arguments[0].value.lower()
                self._functions.setdefault(name, (block.kind, file, first))
            return _End(level)
        if block.kind == "foreach" and first.command is not None:
            return self.foreach(first.command, first.body, file, scope, level)
        if block.kind == "while":
            self.alternatives([partial(self.run, first.body, file)], scope, level)
            return _End(level)
        return self.run(first.body, file, scope, level)

    def choice(self, block: Block, file: str, scope: Scope, level: int) -> _End:
        remaining: Truth = True
        outcomes: list[Scope] = []
        ends: list[_End] = []
        taken = False
        marks = len(self._conditions)
        for branch in block.branches:
            truth: Truth = True
            if branch.command is not None:
                truth = evaluate(branch.tokens, scope, self.exists)
            here = both(remaining, truth)
            remaining = both(remaining, negation(truth))
            if branch.command is not None:
                self._conditions.append((branch.text, here))
            if here is True:
                ends.append(self.run(branch.body, file, scope, level))
                taken = True
            else:
                trial = scope.copy()
                end = self.run(branch.body, file, trial, NO if here is False else min(level, MAYBE))
                if here is UNKNOWN:
                    ends.append(end)
                    if end.level != NO or level == NO:
                        outcomes.append(trial)
            if branch.command is not None:
                self._conditions[-1] = (f"NOT ({branch.text})", remaining)
        del self._conditions[marks:]
        if taken:
            return ends[-1]
        if not ends:
            return _End(level)
        if remaining is not False:
            outcomes.append(scope.copy())
            ends.append(_End(level))
        if outcomes:
            scope.become(outcomes)
        # A branch that ends in an error is one that no working build takes.
        alive = [end for end in ends if not end.fatal]
        if not alive:
            return _End(NO, fatal=True)
        if all(end.level == NO for end in alive):
            return _End(NO)
        returned = any(end.level == NO for end in alive)
        return _End(min(level, MAYBE) if returned else level)

    def foreach(
        self, command: Command, body: tuple[Statement, ...], file: str, scope: Scope, level: int
    ) -> _End:
        if not command.arguments:
            return _End(level)
        name = command.arguments[0].value
        items = self.items(command.arguments[1:], scope)
        if items is None or len(items) > _ROUNDS:
            scope.set(name, UNKNOWN)
            self.alternatives([partial(self.run, body, file)], scope, level)
        else:
            for item in items:
                scope.set(name, item)
                self.run(body, file, scope, level)
        scope.unset(name)
        return _End(level)

    def items(self, arguments: Sequence[Argument], scope: Scope) -> list[Value] | None:
        values = scope.values(arguments)
        if values[:1] == ["RANGE"]:
            return None
        if values[:1] != ["IN"]:
            return None if UNKNOWN in values else values
        found: list[Value] = []
        mode = ""
        for value in values[1:]:
            if value in {"LISTS", "ITEMS"}:
                mode = value or ""
                continue
            text = scope.get(value) if mode == "LISTS" and value is not UNKNOWN else value
            if text is UNKNOWN or mode not in {"LISTS", "ITEMS"}:
                return None
            found.extend(part for part in text.split(";") if part or mode == "ITEMS")
        return found

    def alternatives(self, ways: Sequence[Callable[[Scope, int], _End]], scope: Scope, level: int) -> None:
        """Walk what may happen or not."""
        outcomes = [scope.copy()]
        for way in ways:
            trial = scope.copy()
            way(trial, min(level, MAYBE))
            outcomes.append(trial)
        scope.become(outcomes)

    # -- commands -----------------------------------------------------------------------------
    def command(self, command: Command, file: str, scope: Scope, level: int) -> _End:
        name = command.name
        if name == "return":
            return _End(NO)
        if name == "message":
            fatal = command.values[:1] == ("FATAL_ERROR",)
            # Certainly failing means that the facts are incomplete: go on, there is nothing better to say.
            return _End(NO, fatal=True) if fatal and level == MAYBE else _End(level)
        if name == "include":
            return self.include(command, scope, level)
        if name.startswith("fetchcontent_"):
            self.fetch_content(command, file, scope, level)
        elif name in self._functions:
            self.call(command, scope, level)
        elif (handler := HANDLERS.get(name)) is not None:
            handler(self, command, scope)
        elif name not in _SETS_NOTHING and not name.startswith(("add_", "target_", "include_", "link_")):
            self.forget(command.arguments, scope)
        return _End(level)

    def include(self, command: Command, scope: Scope, level: int) -> _End:
        value = scope.values(command.arguments[:1])
        if value and value[0] is not UNKNOWN:
            path = posixpath.normpath(posixpath.join(SOURCE, value[0]))
            inside = path.removeprefix(f"{SOURCE}/")
            if path != inside and inside in self.files and self._depth < _DEPTH:
                self._depth += 1
                end = self.run_file(inside, scope, level)
                self._depth -= 1
                # return() in an included file ends that file alone.
                return end if end.fatal else _End(level)
        return _End(level)

    def call(self, command: Command, scope: Scope, level: int) -> None:
        kind, file, branch = self._functions[command.name]
        if self._depth >= _DEPTH or branch.command is None:
            self.forget(command.arguments, scope)
            return
        formal = [argument.value for argument in branch.command.arguments[1:]]
        values = scope.values(command.arguments)
        inner = scope.call() if kind == "function" else scope
        kept = {name: inner.variables.get(name, "") for name in (*formal, "ARGN", "ARGV", "ARGC")}
        for name, value in zip(formal, values, strict=False):
            inner.set(name, value)
        for name, rest in (("ARGN", values[len(formal) :]), ("ARGV", values)):
            inner.set(name, UNKNOWN if UNKNOWN in rest else ";".join(str(value) for value in rest))
        inner.set("ARGC", str(len(values)))
        self._depth += 1
        self.run(branch.body, file, inner, level)
        self._depth -= 1
        if kind == "macro":  # arguments of a macro are no variables
            for name, value in kept.items():
                inner.set(name, value)

    def fetch_content(self, command: Command, file: str, scope: Scope, level: int) -> None:
        values = tuple(tuple(scope.split(argument)) for argument in command.arguments)
        self.reached.append(
            Reached(
                command=command.name.removeprefix("fetchcontent_"),
                file=file,
                line=command.line,
                level=level,
                values=values,
                arguments=command.arguments,
                conditions=tuple(dict.fromkeys(text for text, _ in self._conditions)),
                undecided=tuple(dict.fromkeys(text for text, truth in self._conditions if truth is UNKNOWN)),
            )
        )
        if command.name == "fetchcontent_declare":
            return
        populated = level == YES and command.name != "fetchcontent_getproperties"
        for name in (value.lower() for argument in values for value in argument if value):
            before = scope.variables.get(f"{name}_POPULATED", "FALSE")
            scope.set(f"{name}_POPULATED", "TRUE" if populated else before)
            for part in ("SOURCE", "BINARY"):
                scope.set(f"{name}_{part}_DIR", f"{BINARY}/_deps/{name}-{part.lower()}")

    def forget(self, arguments: Sequence[Argument], scope: Scope) -> None:
        """A command that is not followed may have set any variable that it was given the name of."""
        for argument in arguments:
            if not argument.quoted and _NAME.fullmatch(argument.value) and argument.value in self.world.own:
                scope.set(argument.value, UNKNOWN)

    def exists(self, path: str) -> Truth:
        path = posixpath.normpath(path)
        if path == BINARY or path.startswith(f"{BINARY}/"):
            return False  # nothing was built before
        inside = path.removeprefix(f"{SOURCE}/")
        return True if path in self.contents or (path != inside and inside in self.files) else UNKNOWN
