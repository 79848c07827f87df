"""Which inputs differ between two plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_builder.model import Model


class Difference(Model):
    """``path`` is dotted; a side that lacks the input is None."""

    path: str
    this: str | None
    other: str | None


def differences(this: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Compare two digest views leaf by leaf, in the order of their paths."""
    mine, theirs = dict(_leaves(this, "")), dict(_leaves(other, ""))
    return tuple(
        Difference(path=path, this=mine.get(path), other=theirs.get(path))
        for path in sorted(mine.keys() | theirs.keys())
        if mine.get(path) != theirs.get(path)
    )


def _leaves(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key in value for leaf in _leaves(value[key], f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple) and value:
        return [leaf for number, item in enumerate(value) for leaf in _leaves(item, f"{path}[{number}]")]
    return [(path, "none" if value is None else str(value))]
