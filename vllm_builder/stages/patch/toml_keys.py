"""Dotted TOML keys, read by TOML's own grammar."""

from __future__ import annotations

import tomllib
from typing import Any


def split_key(dotted: str) -> tuple[str, ...]:
    """``tool.uv."a.b"`` -> ``("tool", "uv", "a.b")``.

    Raises:
        ValueError: it is not a TOML key.
    """
    try:
        if "\n" in dotted:
            raise tomllib.TOMLDecodeError
        value: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        raise ValueError(f"{dotted!r} is not a TOML key such as build-system.requires") from None
    parts = []
    while isinstance(value, dict):
        (part,) = value
        parts.append(part)
        value = value[part]
    return tuple(parts)
