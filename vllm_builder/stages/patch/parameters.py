"""``{{name}}`` in the texts of a patch set that declares parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_builder.stages.patch.operations import PatchSet

_REFERENCE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")


def fill(value: Any, values: Mapping[str, str]) -> Any:
    """Replace every reference in all texts of plain JSON data."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: values.get(found[1], found[0]), value)
    if isinstance(value, dict):
        return {key: fill(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, values) for item in value]
    return value


def unknown_references(patch_set: PatchSet) -> list[str]:
    """Names that are referred to and not declared."""
    found = {
        name
        for text in _texts([operation.model_dump() for operation in patch_set.operation])
        for name in _REFERENCE.findall(text)
    }
    return sorted(found - set(patch_set.parameters))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
