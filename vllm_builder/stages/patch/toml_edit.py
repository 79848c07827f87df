"""Edits of TOML files that keep formatting and comments.

tomlkit makes the edit; what comes out is then compared with the same edit made on plain values as the
standard library reads them, so that a slip of either is an error and never a changed file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, MutableMapping, MutableSequence
from fnmatch import fnmatchcase
from typing import Any

from vllm_builder.errors import PatchFailed
from vllm_builder.stages.patch.lines import carry_over
from vllm_builder.stages.patch.operations import (
    DeleteTomlKey,
    RemoveTomlItems,
    RemoveTomlRequirements,
    RenameTomlKey,
    SetTomlKey,
)
from vllm_builder.stages.patch.outcome import Missed, Outcome
from vllm_builder.stages.patch.requirement_files import requirement_name
from vllm_builder.stages.patch.toml_keys import split_key
from vllm_builder.stages.patch.tree import Overlay

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "table": dict,
    "array": list,
    "boolean": bool,
    "number": (int, float),
}


def read(overlay: Overlay, path: str) -> tuple[bytes, dict[str, Any]]:
    """A TOML file of the tree, as bytes and as plain values.

    Raises:
        Missed: there is no such file.
        PatchFailed: it is not TOML.
    """
    data = overlay.get(path)
    if data is None:
        raise Missed(f"there is no {path}", target=True)
    try:
        return data, tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PatchFailed(f"{path} is not valid TOML.", why=str(error)) from error


def _edit(overlay: Overlay, path: str, change: Callable[[Any, bool], None]) -> None:
    """Make a change twice, on the document and on plain values, and keep it if both agree.

    ``change`` gets the root table and whether it is the formatted document.
    """
    import tomlkit
    import tomlkit.exceptions

    data, plain = read(overlay, path)
    text = data.decode()
    try:
        document = tomlkit.parse(re.sub(r"\r\n?", "\n", text))
        change(document, True)
        edited = tomlkit.dumps(document)
    except tomlkit.exceptions.TOMLKitError as error:
        raise PatchFailed(f"{path} could not be edited.", why=str(error)) from error
    change(plain, False)
    result = carry_over(data, edited)
    try:
        found = tomllib.loads(result.decode())
    except tomllib.TOMLDecodeError as error:
        raise PatchFailed(f"Editing {path} would break it.", why=str(error)) from error
    if found != plain:
        raise PatchFailed(f"Editing {path} would change more than was asked for.")
    overlay.put(path, result)


def look_up(table: Any, parts: tuple[str, ...]) -> Any:
    """The value under a key, or None where any part is missing."""
    for part in parts:
        if not isinstance(table, MutableMapping) or part not in table:
            return None
        table = table[part]
    return table


def array(plain: Any, path: str, key: str) -> list[Any]:
    value = look_up(plain, split_key(key))
    if value is None:
        raise Missed(f"{path} has no {key}", target=True)
    if not isinstance(value, list):
        raise PatchFailed(f"{key} in {path} is not an array.")
    return value


def remove_requirements(operation: RemoveTomlRequirements, overlay: Overlay) -> Outcome:
    return remove_named(overlay, operation.file, operation.keys, operation.names)


def remove_named(overlay: Overlay, path: str, keys: Collection[str], names: Collection[str]) -> Outcome:
    """Remove requirements with these canonical names from arrays."""

    def drop(item: Any) -> bool:
        return isinstance(item, str) and requirement_name(item) in names

    return _remove(overlay, path, keys, drop, f"requires {', '.join(sorted(names))}")


def remove_items(operation: RemoveTomlItems, overlay: Overlay) -> Outcome:
    _, plain = read(overlay, operation.file)
    if operation.if_key and look_up(plain, split_key(operation.if_key)) is None:
        raise Missed(f"{operation.file} has no {operation.if_key}")

    def drop(item: Any) -> bool:
        return isinstance(item, str) and any(fnmatchcase(item, pattern) for pattern in operation.items)

    return _remove(overlay, operation.file, [operation.key], drop, f"holds {', '.join(operation.items)}")


def _remove(
    overlay: Overlay, path: str, keys: Collection[str], drop: Callable[[Any], bool], what: str
) -> Outcome:
    _, plain = read(overlay, path)
    items = [item for key in keys for item in array(plain, path, key)]
    if not any(map(drop, items)):
        raise Missed(f"no item of {', '.join(keys)} in {path} {what}")

    def change(root: Any, _: bool) -> None:
        for key in keys:
            items: MutableSequence[Any] = look_up(root, split_key(key))
            for index in reversed(range(len(items))):
                if drop(items[index]):
                    del items[index]

    _edit(overlay, path, change)
    return Outcome(changed=[path])


def set_key(operation: SetTomlKey, overlay: Overlay) -> Outcome:
    path, parts = operation.file, split_key(operation.key)
    _, plain = read(overlay, path)
    present = look_up(plain, parts)
    if present == operation.value and type(present) is type(operation.value):
        return Outcome(already=[path])
    if operation.if_key and look_up(plain, split_key(operation.if_key)) is None:
        raise Missed(f"{path} has no {operation.if_key}")
    if present is None and not operation.create:
        raise Missed(f"{path} has no {operation.key}", target=True)
    if present is not None and operation.if_type and not _is_type(present, operation.if_type):
        raise Missed(f"{operation.key} in {path} is not a {operation.if_type}")

    def change(root: Any, formatted: bool) -> None:
        for part in parts[:-1]:
            if part not in root:
                root[part] = _new_table(formatted)
            root = root[part]
        if not isinstance(root, MutableMapping):
            raise PatchFailed(f"{operation.key} cannot be set in {path}: a part of it is not a table.")
        root[parts[-1]] = _formatted(operation.value) if formatted else operation.value

    _edit(overlay, path, change)
    return Outcome(changed=[path])


def _is_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _new_table(formatted: bool) -> Any:
    if not formatted:
        return {}
    import tomlkit

    return tomlkit.table()


def _formatted(value: Any) -> Any:
    """A value as it is usually written in pyproject files: ``{ text = "Apache-2.0" }``."""
    import tomlkit

    if not isinstance(value, dict):
        return tomlkit.item(value)
    text = tomlkit.inline_table()
    text.update({key: _formatted(item) for key, item in value.items()})
    body = text.as_string()
    spaced = f"{{ {body[1:-1].strip()} }}" if value else body
    return tomlkit.value(spaced)


def rename_key(operation: RenameTomlKey, overlay: Overlay) -> Outcome:
    path, parts = operation.file, split_key(operation.key)
    _, plain = read(overlay, path)
    old, new = look_up(plain, parts), look_up(plain, (*parts[:-1], operation.to))
    if old is None and new is not None:
        return Outcome(already=[path])
    if old is None:
        raise Missed(f"{path} has no {operation.key}")
    if new is not None:
        raise PatchFailed(f"{path} has both {operation.key} and {operation.to}: neither was renamed.")

    def change(root: Any, formatted: bool) -> None:
        table = look_up(root, parts[:-1]) if parts[:-1] else root
        if not formatted:
            table[operation.to] = table.pop(parts[-1])
            return
        from tomlkit.container import Container
        from tomlkit.items import SingleKey

        # tomlkit's public calls can only delete and append, which would lose the place and the comment.
        body = table if isinstance(table, Container) else table.value
        item: Any = body.item(parts[-1])
        if hasattr(item, "invalidate_display_name"):
            item.invalidate_display_name()
        was = next(key for key, _ in body.body if key is not None and key.key == parts[-1])
        spelling = was.as_string()
        blanks = spelling[len(spelling.rstrip()) :]
        original = SingleKey(operation.to).as_string() + blanks
        body._replace(parts[-1], SingleKey(operation.to, sep=was.sep, original=original), item)

    _edit(overlay, path, change)
    return Outcome(changed=[path])


def delete_key(operation: DeleteTomlKey, overlay: Overlay) -> Outcome:
    path, parts = operation.file, split_key(operation.key)
    _, plain = read(overlay, path)
    if look_up(plain, parts) is None:
        raise Missed(f"{path} has no {operation.key}")

    def change(root: Any, _: bool) -> None:
        del (look_up(root, parts[:-1]) if parts[:-1] else root)[parts[-1]]

    _edit(overlay, path, change)
    return Outcome(changed=[path])
