"""Does a module that claims Python's stable ABI keep to it, and does it exist in every Python that may load it?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from vllm_builder.stages.verify.checks.symbols import PYTHON
from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.subject import Part, Subject

_MINORS = range(6, 40)


def stable_abi(subject: Subject) -> Iterator[Finding]:
    tagged = _tagged(subject)
    oldest = _oldest_allowed(subject.wheel.metadata.requires_python)
    universal = any(tag.abi == "abi3" for tag in subject.wheel.tags)
    for part in subject.parts:
        if part.module.abi3 is None:
            continue
        if part.module.abi3 is False:
            if universal and not _one_of_several(subject, part):
                yield Finding(
                    check="abi3",
                    severity="error",
                    what=f"{part.name} is for one Python only, in a wheel that is tagged for all of them (abi3).",
                    where=part.name,
                    why="Every other Python installs the wheel and does not find the module.",
                    cure="Build the wheel without a limited API: one wheel per Python.",
                )
            continue
        names = [s.name for s in part.library.imports if not s.weak and PYTHON.fullmatch(s.name)]
        outside = [name for name in names if _since(name) is None]
        if outside:
            yield Finding(
                check="abi3",
                severity="error",
                what=f"{part.short} claims the stable ABI of Python and uses what is not in it: {', '.join(outside[:5])}"
                f"{f' and {len(outside) - 5} more' if len(outside) > 5 else ''}.",
                where=part.name,
                why="These functions may be missing or mean something else in another Python, which then crashes.",
                cure="Compile it with Py_LIMITED_API, or call it what it is: a module of one Python.",
            )
        late = sorted(
            (since, name) for name in names if (since := _since(name)) and tagged and since > tagged
        )
        if late and tagged:
            since = late[-1][0]
            harmful = oldest is None or since > oldest
            yield Finding(
                check="abi3",
                severity="error" if harmful else "info",
                what=f"{part.short} uses {late[-1][1]}, which is in the stable ABI since Python "
                f"{_dotted(since)}, and the wheel is "
                f"tagged cp{tagged[0]}{tagged[1]}.",
                where=part.name,
                why=f"Python {_dotted(oldest or tagged)} installs the wheel and cannot load the module."
                if harmful
                else f"Requires-Python ({subject.wheel.metadata.requires_python}) keeps older ones away.",
                cure=f"Tag the wheel cp{since[0]}{since[1]}-abi3." if harmful else "",
            )


def _one_of_several(subject: Subject, part: Part) -> bool:
    """A module that is there once for each Python (DeepGEMM in 0.21 to 0.31), so that the wheel serves them all."""
    stem = part.name.partition(".")[0]
    return sum(other.name.startswith(f"{stem}.") for other in subject.parts) > 1


def _tagged(subject: Subject) -> tuple[int, int] | None:
    """The oldest Python of the wheel's abi3 tags."""
    found = []
    for tag in subject.wheel.tags:
        if tag.abi == "abi3" and tag.interpreter.startswith("cp") and tag.interpreter[2:].isdigit():
            digits = tag.interpreter[2:]
            found.append((int(digits[0]), int(digits[1:] or 0)))
    return min(found, default=None)


def _oldest_allowed(requires_python: str) -> tuple[int, int] | None:
    """The oldest Python that Requires-Python lets install the wheel; None where it lets all."""
    if not requires_python:
        return None
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return None
    for minor in _MINORS:
        if allowed.contains(Version(f"3.{minor}.99")) or allowed.contains(Version(f"3.{minor}")):
            return 3, minor
    return None


@cache
def _since(name: str) -> tuple[int, int] | None:
    """Since which Python a name is part of the stable ABI; None where it is not."""
    from abi3info import DATAS, FUNCTIONS
    from abi3info.models import Symbol

    symbol = Symbol(name)
    found = FUNCTIONS.get(symbol) or DATAS.get(symbol)
    return (found.added.major, found.added.minor) if found else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
