"""Operations on CMake files."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_builder.stages.patch.cmake import Argument, CMakeFile, Command, Edit, spell
from vllm_builder.stages.patch.operations import InsertCmakeCommand, RemoveCmakeArgument, SetCmakeVariable
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

_SCOPES = frozenset({"CACHE", "PARENT_SCOPE"})


def files_of(overlay: Overlay, patterns: tuple[str, ...]) -> Iterator[tuple[str, CMakeFile]]:
    """The files that match, parsed; Missed if there is none."""
    names = overlay.glob(patterns)
    if not names:
        raise Missed(f"no file matches {', '.join(patterns)}", target=True)
    for name in names:
        yield name, CMakeFile(overlay.get(name) or b"", name)


def set_variable(operation: SetCmakeVariable, overlay: Overlay) -> Outcome:
    """Give all ``set`` and ``option`` invocations of a variable another value."""
    wanted = (operation.value,) if isinstance(operation.value, str) else operation.value
    outcome, others = Outcome(), set()
    for path, file in files_of(overlay, operation.files):
        edits, found = [], False
        for command in (*file.commands("set", (operation.name,)), *file.commands("option", ("*",))):
            if command.arguments[0].value != operation.name:
                continue
            old = _values(command)
            if tuple(argument.value for argument in old) == wanted:
                found = True
            elif operation.where and " ".join(argument.value for argument in old) not in operation.where:
                others.add(" ".join(argument.value for argument in old))
            else:
                edits.append(_replacement(command, old, wanted))
        if edits:
            overlay.put(path, file.edited(edits).data)
            outcome.changed.append(path)
        elif found:
            outcome.already.append(path)
    if not outcome.changed and not outcome.already:
        why = f" to {', '.join(operation.where)}, only to {', '.join(sorted(others))}" if others else ""
        raise Missed(f"no file in {', '.join(operation.files)} sets {operation.name}{why}")
    return outcome


def _values(command: Command) -> tuple[Argument, ...]:
    """The arguments that make the value."""
    if command.name == "option":
        return command.arguments[2:3]
    values = []
    for argument in command.arguments[1:]:
        if argument.value in _SCOPES and not argument.quoted:
            break
        values.append(argument)
    return tuple(values)


def _replacement(command: Command, old: tuple[Argument, ...], wanted: tuple[str, ...]) -> Edit:
    text = " ".join(spell(value) for value in wanted)
    if old:
        return Edit(old[0].start, old[-1].stop, text)
    after = command.arguments[1 if command.name == "option" and len(command.arguments) > 1 else 0]
    return Edit(after.stop, after.stop, f" {text}")


def remove_argument(operation: RemoveCmakeArgument, overlay: Overlay) -> Outcome:
    """Remove an argument and the blanks before it."""
    outcome = Outcome()
    for path, file in files_of(overlay, operation.files):
        edits = [
            Edit(blanks_before(file.data, argument.start), argument.stop, "")
            for command in file.commands(operation.command, operation.arguments)
            for argument in command.arguments[len(operation.arguments) :]
            if argument.value == operation.remove
        ]
        if edits:
            overlay.put(path, file.edited(edits).data)
            outcome.changed.append(path)
    if not outcome.changed:
        shape = " ".join((*operation.arguments, "..."))
        raise Missed(f"no {operation.command}({shape}) has the argument {operation.remove}")
    return outcome


def insert_command(operation: InsertCmakeCommand, overlay: Overlay) -> Outcome:
    """Insert code on lines of its own behind invocations, indented as they are."""
    outcome = Outcome()
    for path, file in files_of(overlay, operation.files):
        edits, found = [], False
        commands = list(file.commands(operation.command, operation.arguments))
        for number, command in enumerate(commands):
            indent = _indentation(file.data, command.start)
            end = "\r\n" if file.data[command.stop : command.stop + 2] == b"\r\n" else "\n"
            lines = operation.code.strip("\n").splitlines()
            code = "".join(f"{end}{indent}{line}" if line else end for line in lines)
            # Another set may have put its own code between the two; the next such command has one of its own.
            limit = commands[number + 1].start if number + 1 < len(commands) else len(file.data)
            if code.encode() in file.data[command.stop : limit]:
                found = True
            else:
                edits.append(Edit(command.stop, command.stop, code))
        if edits:
            overlay.put(path, file.edited(edits).data)
            outcome.changed.append(path)
        elif found:
            outcome.already.append(path)
    if not outcome.changed and not outcome.already:
        shape = " ".join((*operation.arguments, "..."))
        raise Missed(f"there is no {operation.command}({shape})")
    return outcome


def _indentation(data: bytes, position: int) -> str:
    line = data[data.rfind(b"\n", 0, position) + 1 : position]
    return line.decode() if not line.strip() else ""


def blanks_before(data: bytes, position: int) -> int:
    """Where the blanks begin that can be removed together with what stands at a position."""
    start = position
    while start and data[start - 1 : start] in {b" ", b"\t", b"\r", b"\n"}:
        start -= 1
    line = data.rfind(b"\n", 0, start) + 1
    # Behind a line comment the line's end must stay, or the comment would swallow what follows.
    return position if b"#" in data[line:start] and b"\n" in data[start:position] else start
