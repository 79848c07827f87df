"""The commands that set variables and are followed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from vllm_builder.stages.patch.cmake import Command
from vllm_builder.stages.vendor.scope import UNKNOWN, Scope, Value

if TYPE_CHECKING:
    from vllm_builder.stages.vendor.interpreter import Interpreter

_CHANGED_FIRST = frozenset(
    ("INSERT", "PREPEND", "REMOVE_ITEM", "REMOVE_AT", "REMOVE_DUPLICATES", "FILTER", "SORT", "REVERSE",
     "TRANSFORM", "POP_BACK", "POP_FRONT")
)  # fmt: skip
_RESULTS = frozenset(("OUTPUT_VARIABLE", "RESULT_VARIABLE", "ERROR_VARIABLE", "RESULTS_VARIABLE"))


def _set(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    if not command.arguments:
        return
    name = scope.expand(command.arguments[0].value)
    if name is UNKNOWN:
        return
    arguments = command.arguments[1:]
    words = [None if argument.quoted else argument.value for argument in arguments]
    if "CACHE" in words:
        if "FORCE" not in words and scope.variables.get(name) not in {None, ""}:
            return
        arguments = arguments[: words.index("CACHE")]
    target = scope
    if words[-1:] == ["PARENT_SCOPE"]:
        arguments = arguments[:-1]
        target = scope.parent or scope
    values = scope.values(arguments)
    value: Value = UNKNOWN if UNKNOWN in values else ";".join(str(value) for value in values)
    if match := re.fullmatch(r"ENV\{(.*)\}", name):
        scope.environment[match[1]] = value
    elif not arguments and not words:
        target.unset(name)
    else:
        target.set(name, value)


def _unset(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    if command.arguments:
        scope.unset(command.arguments[0].value)


def _option(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    if not command.arguments or command.arguments[0].value in scope.variables:
        return
    scope.set(command.arguments[0].value, (scope.values(command.arguments[2:3]) or ["OFF"])[0])


def _list(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    values = scope.values(command.arguments)
    if len(values) < 2 or values[0] is UNKNOWN or values[1] is UNKNOWN:
        interpreter.forget(command.arguments, scope)
    elif values[0] == "APPEND":
        parts = [scope.get(values[1]), *values[2:]]
        unknown = UNKNOWN in parts
        scope.set(values[1], UNKNOWN if unknown else ";".join(str(part) for part in parts if part))
    elif values[0] in _CHANGED_FIRST:
        scope.set(values[1], UNKNOWN)
    else:
        interpreter.forget(command.arguments[2:], scope)


def _string(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    values = [scope.expand(argument.value) for argument in command.arguments]
    match values:
        case ["FIND", str(text), str(part), str(out), *_]:
            scope.set(out, str(text.rfind(part) if "REVERSE" in values[4:] else text.find(part)))
        case ["TOLOWER" | "TOUPPER" as how, str(text), str(out)]:
            scope.set(out, text.lower() if how == "TOLOWER" else text.upper())
        case ["STRIP", str(text), str(out)]:
            scope.set(out, text.strip())
        case ["REPLACE", str(old), str(new), str(out), *texts] if UNKNOWN not in texts:
            scope.set(out, "".join(str(text) for text in texts).replace(old, new))
        case ["APPEND" | "PREPEND" as how, str(out), *texts]:
            before, added = scope.get(out), "".join(str(text) for text in texts)
            unknown = before is UNKNOWN or UNKNOWN in texts
            scope.set(
                out, UNKNOWN if unknown else f"{added}{before}" if how == "PREPEND" else f"{before}{added}"
            )
        case ["FIND" | "TOLOWER" | "TOUPPER" | "STRIP" | "REPLACE", *_]:
            place = 3 if values[0] in {"FIND", "REPLACE"} else 2
            interpreter.forget(command.arguments[place : place + 1], scope)
            if len(values) > place and values[place] is not UNKNOWN:
                scope.set(str(values[place]), UNKNOWN)
        case _:
            interpreter.forget(command.arguments[1:], scope)


def _execute_process(interpreter: Interpreter, command: Command, scope: Scope) -> None:
    values = scope.values(command.arguments)
    text: Value = UNKNOWN
    match values:
        case ["COMMAND", "cat", str(path), *_] if path in interpreter.contents:
            text = interpreter.contents[path]
    for keyword, name in pairwise(values):
        if keyword in _RESULTS and name is not UNKNOWN:
            found = {"OUTPUT_VARIABLE": text, "RESULT_VARIABLE": "0"}.get(keyword or "")
            scope.set(name, found if text is not UNKNOWN else UNKNOWN)


HANDLERS: dict[str, Callable[[Interpreter, Command, Scope], None]] = {
    "set": _set,
    "unset": _unset,
    "option": _option,
    "list": _list,
    "string": _string,
    "execute_process": _execute_process,
}
