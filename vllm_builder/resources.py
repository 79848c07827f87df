"""Where the shipped data is: inside the installed wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(kind: str) -> Path:
    """The folder of shipped ``"patches"``, ``"recipes"`` or ``"locks"``."""
    installed = _PACKAGE / "_data" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


COMPATIBILITY = _PACKAGE / "compatibility.toml"
