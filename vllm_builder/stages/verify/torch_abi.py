"""What a library wants of torch: its C++ names, or the functions of the stable ABI and since when they exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

from packaging.version import Version

_CXX: Final = re.compile(r"_Z(?:T[ISVTCW]|G[VR]|T[hv][n0-9_]+)?N[rVKRO]*(?:2at|3c10|5torch|6caffe2)")
"""Itanium names inside of torch's namespaces, with their type information, tables and thunks."""
_C: Final = re.compile(r"(?:aoti_)?torch_\w+")


def cxx_symbols(names: Iterable[str]) -> tuple[str, ...]:
    """Those that torch's C++ libraries define."""
    return tuple(name for name in names if _CXX.match(name))


def stable_symbols(names: Iterable[str]) -> tuple[str, ...]:
    """Those of torch's C shim, which its stable ABI is made of."""
    return tuple(name for name in names if _C.fullmatch(name))


def oldest_torch(functions: Iterable[str]) -> str:
    """The oldest release that has all these functions of the C shim: ``2.9``.

    Releases before the oldest that was looked at count as that. ``>2.15`` where a function is in none of them.
    """
    since, newest = _since()
    known = [since.get(name) for name in functions]
    if None in known:
        return f">{newest}"
    return str(max((version for version in known if version), default=""))


def added_after(functions: Iterable[str], torch: str) -> tuple[str, ...]:
    """Those functions of the C shim that ``torch`` (``2.11.0+cu130``) does not have yet."""
    since, newest = _since()
    release = Version(Version(torch).base_version)
    later = release > Version(newest)
    return tuple(name for name in functions if (since[name] > release if name in since else not later))


@lru_cache(maxsize=1)
def _since() -> tuple[dict[str, Version], str]:
    with Path(__file__).with_name("stable_abi.toml").open("rb") as file:
        data = tomllib.load(file)
    newest = data.pop("newest")
    found = {name: Version(release) for release, table in data.items() for name in table["functions"]}
    return found, newest
