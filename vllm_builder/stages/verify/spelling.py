"""Why a C++ name of torch is not there: another string ABI, another signature, or gone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from vllm_builder.binary import demangle

Kind = Literal["old-string", "new-string", "signature", "gone"]
_NUMBER: Final = re.compile(r"\d+")
_NEW_STRING: Final = (
    "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >",
    "std::basic_string<char, std::char_traits<char>, std::allocator<char> >",
)
_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What became of a name that torch does not define."""

    name: str
    kind: Kind
    readable: str
    instead: str = ""
    """The nearest name that torch does define, readable."""


def diagnose(missing: Iterable[str], defined: Collection[str]) -> tuple[Diagnosis, ...]:
    """Say of each mangled name why it is not among those that are defined."""
    missing = tuple(dict.fromkeys(missing))
    prefixes = {name: _prefix(name) for name in missing}
    wanted = {prefix for prefix in prefixes.values() if prefix}
    near: dict[str, list[str]] = {prefix: [] for prefix in wanted}
    for name in defined:
        prefix = _prefix(name)
        if prefix in near and "@" not in name and len(near[prefix]) < _MOST:
            near[prefix].append(name)
    words = [*missing, *(name for names in near.values() for name in names)]
    readable = dict(zip(words, demangle(words), strict=True))
    return tuple(_one(name, readable[name], near.get(prefixes[name], ()), readable) for name in missing)


def _one(name: str, text: str, candidates: Iterable[str], readable: dict[str, str]) -> Diagnosis:
    other = ""
    for candidate in sorted(candidates):
        spelled = readable[candidate]
        new_here, new_there = _is_new(name), _is_new(candidate)
        # Without c++filt names cannot be compared in full: the same function, and one of the spellings each.
        same = _without_abi(spelled) == _without_abi(text) or (text == name and spelled == candidate)
        if same and new_here != new_there:
            return Diagnosis(name, "new-string" if new_here else "old-string", text, spelled)
        if qualified(candidate) == qualified(name):
            other = other or spelled
    return Diagnosis(name, "signature" if other else "gone", text, other)


def _is_new(mangled: str) -> bool:
    return "7__cxx11" in mangled or "B5cxx11" in mangled


def _without_abi(text: str) -> str:
    for spelling in _NEW_STRING:
        text = text.replace(spelling, "std::string")
    return text.replace("std::__cxx11::", "std::").replace("[abi:cxx11]", "")


def qualified(name: str) -> str:
    """The name of a function without parameters and template arguments.

    ``_ZN6marlin6MarlinILi1EEEvv`` -> ``marlin::Marlin``. Read from the mangled name itself: tools that demangle are not
    everywhere, and stop at very long names.
    """
    words = _words(name)[0]
    return "::".join("{anonymous}" if word.startswith("_GLOBAL__N") else word for word in words) or name


def _prefix(name: str) -> str:
    """The mangled qualified name without parameters: ``_ZN5torch3jit17parseSchemaOrName``; empty where there is none."""
    words, end = _words(name)
    return name[:end] if words else ""


def _words(name: str) -> tuple[list[str], int]:
    """The identifiers at the beginning of a mangled name, and where they end."""
    if not name.startswith("_Z"):
        return [], 0
    at = 2
    at += name[at : at + 1] == "L"
    if name[at : at + 1] == "N":
        at += 1
        while name[at : at + 1] in {"r", "V", "K", "R", "O"}:
            at += 1
    words = []
    while match := _NUMBER.match(name, at):
        end = match.end() + int(match[0])
        if end > len(name):
            break
        words.append(name[match.end() : end])
        at = end
    return words, at
