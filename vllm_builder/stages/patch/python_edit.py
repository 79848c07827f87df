"""Edits of setup.py, located through its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.cmake import CMakeFile, Edit
from vllm_builder.stages.patch.operations import LeaveOutExtension
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.tree import Overlay

_CLASS = "CMakeExtension"


def extensions(data: bytes, path: str = "setup.py") -> list[tuple[str, bool]]:
    """Extension modules that setup.py may build, in order: last part of the name, and whether it is optional.

    Raises:
        PatchFailed: the file is not valid Python.
    """
    found = []
    for _, call in _appended(_parse(data, path)):
        if name := _name(call):
            optional = any(
                k.arg == "optional" and isinstance(k.value, ast.Constant) and k.value.value is True
                for k in call.keywords
            )
            found.append((name, optional))
    return found


def leave_out(operation: LeaveOutExtension, overlay: Overlay) -> Outcome:
    """Take an extension out of setup.py's list; hand its other files over to another component."""
    data = overlay.get(operation.file)
    if data is None:
        raise Missed(f"there is no {operation.file}", target=True)
    lines = data.splitlines(keepends=True)
    edits: list[tuple[int, int]] = []
    for statement, call in _appended(_parse(data, operation.file)):
        if _name(call) == operation.name:
            assert statement.end_lineno is not None
            assert statement.end_col_offset is not None
            start = sum(map(len, lines[: statement.lineno - 1])) + statement.col_offset
            stop = sum(map(len, lines[: statement.end_lineno - 1])) + statement.end_col_offset
            edits.append((start, stop))
    if not edits:
        raise Missed(f"{operation.file} appends no {_CLASS} named {operation.name}")
    for start, stop in reversed(edits):
        # The block that the statement stands in must not become empty.
        data = data[:start] + b"pass" + data[stop:]
    _parse(data, operation.file)
    overlay.put(operation.file, data)
    outcome = Outcome(changed=[operation.file])
    if operation.component:
        _hand_over(operation, overlay, outcome)
    return outcome


def _hand_over(operation: LeaveOutExtension, overlay: Overlay, outcome: Outcome) -> None:
    for path in overlay.glob(operation.cmake):
        raw = overlay.get(path) or b""
        if operation.name.encode() not in raw:
            continue
        file = CMakeFile(raw, path)
        edits = []
        for kind in ("DIRECTORY", "FILES", "PROGRAMS"):
            for command in file.commands("install", (kind,)):
                component = command.keyword("COMPONENT")
                if component is not None and component.value == operation.name:
                    edits.append(Edit(component.start, component.stop, operation.component))
        # From 0.17 on: foreach(_FA_COMPONENT _vllm_fa2_C _vllm_fa3_C) around the same install() for each.
        for loop in file.commands("foreach"):
            items = loop.values[1:]
            for argument in loop.arguments[1:]:
                if argument.value == operation.name and "IN" not in items:
                    # What the loop makes for a component it makes once.
                    twice = operation.component in items
                    edits.append(Edit(argument.start, argument.stop, "" if twice else operation.component))
        if edits:
            overlay.put(path, file.edited(edits).data)
            outcome.changed.append(path)


def _parse(data: bytes, path: str) -> ast.Module:
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError) as error:
        raise PatchFailed(f"{path} is not valid Python.", why=str(error)) from None


def _appended(module: ast.Module) -> Iterator[tuple[ast.Expr, ast.Call]]:
    """Statements ``something.append(CMakeExtension(...))``."""
    statements = [node for node in ast.walk(module) if isinstance(node, ast.Expr)]
    for node in sorted(statements, key=lambda node: node.lineno):
        match node:
            case ast.Expr(
                value=ast.Call(
                    func=ast.Attribute(attr="append"),
                    args=[ast.Call(func=ast.Name(id="CMakeExtension")) as call],
                )
            ):
                yield node, call


def _name(call: ast.Call) -> str:
    """``vllm.vllm_flash_attn._vllm_fa3_C`` -> ``_vllm_fa3_C``."""
    values = [k.value for k in call.keywords if k.arg == "name"] or call.args[:1]
    if values and isinstance(values[0], ast.Constant) and isinstance(values[0].value, str):
        return values[0].value.rpartition(".")[2]
    return ""
