"""Which Linux a wheel's libraries run on: from the symbol versions that they want, by auditwheel's tables.

auditwheel itself takes minutes over a CUDA wheel and refuses libraries of torch; only its tables are used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.utils import canonicalize_name

from vllm_builder.binary.model import Library
from vllm_builder.model import Model

_NAME: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


class Floor(Model):
    """See :class:`~vllm_builder.stages.verify.model.Inspection` for the fields."""

    platform_floor: str = ""
    floor_reason: str = ""
    outside: tuple[str, ...] = ()


class Provided(Model):
    by: str
    libraries: tuple[str, ...]
    having: tuple[str, ...] = ()


def provider(soname: str, requirements: Iterable[str]) -> str:
    """Who brings a library that a wheel does not carry, in words; empty where nobody does.

    Args:
        requirements: names of the distributions in Requires-Dist, and the wheel's own.
    """
    names = set(requirements)
    for entry in _provided():
        if any(fnmatchcase(soname, pattern) for pattern in entry.libraries) and (
            not entry.having or any(fnmatchcase(name, pattern) for name in names for pattern in entry.having)
        ):
            return entry.by
    return ""


def required_names(requires_dist: Iterable[str]) -> frozenset[str]:
    """Normalised names of the distributions in Requires-Dist, also in lines that are not quite valid."""
    found = (_NAME.match(line) for line in requires_dist)
    return frozenset(canonicalize_name(match[1]) for match in found if match)


def floor_of(libraries: Sequence[Library], requirements: Iterable[str]) -> Floor:
    """The oldest manylinux that has all symbol versions that the libraries want of the system.

    Args:
        libraries: all of the wheel, with the members' names.
        requirements: names of the distributions in Requires-Dist, and the wheel's own.
    """
    if not libraries:
        return Floor()
    names = frozenset(requirements)
    carried = {lib.soname for lib in libraries} | {PurePosixPath(lib.name).name for lib in libraries}
    needed = {soname for lib in libraries for soname in lib.needed}
    foreign = {soname for soname in needed - carried if not provider(soname, names)}
    machines = [lib.machine for lib in libraries]
    machine = max(dict.fromkeys(machines), key=machines.count)
    if any(soname.startswith("libc.musl-") for soname in needed):
        return Floor(
            floor_reason="musl, which gives its symbols no versions",
            outside=tuple(sorted(s for s in foreign if not s.startswith("libc.musl-"))),
        )
    policies = _policies(machine)
    if not policies:
        return Floor(platform_floor=f"linux_{machine}", outside=tuple(sorted(foreign)))
    wanted: dict[tuple[str, str], str] = {}
    for lib in libraries:
        for symbol in lib.imports:
            family, _, version = symbol.version.partition("_")
            if version and symbol.library not in carried and family in policies[0].families:
                wanted.setdefault(
                    (family, version),
                    f"{PurePosixPath(lib.name).name} wants {symbol.version} ({symbol.name})",
                )
    reason = ""
    chosen = None
    for policy in policies:  # oldest first
        lacking = [key for key in wanted if key[1] not in policy.versions.get(key[0], frozenset())]
        if not lacking:
            chosen = policy
            break
        # Of several that an older system lacks, C's own library says most.
        reason = wanted[min(lacking, key=lambda key: (key[0] != "GLIBC", key))]
    allowed = (chosen or policies[-1]).whitelist
    return Floor(
        platform_floor=f"{chosen.name}_{machine}" if chosen else f"linux_{machine}",
        floor_reason=reason,
        outside=tuple(sorted(foreign - allowed)),
    )


def true_platform(libraries: Sequence[Library], requirements: Iterable[str]) -> tuple[str, str]:
    """The platform that a wheel's tags may claim, and why.

    A library that has to be on the machine is promised by no manylinux tag, so only ``linux_x86_64`` is true then.

    Args:
        libraries, requirements: as for :func:`floor_of`; at least one library.
    """
    floor = floor_of(libraries, requirements)
    machines = [library.machine for library in libraries]
    plain = f"linux_{max(dict.fromkeys(machines), key=machines.count)}"
    if floor.outside:
        return (
            plain,
            f"{', '.join(floor.outside)} must be on the machine, and nothing that it requires brings it",
        )
    return floor.platform_floor or plain, floor.floor_reason


class _Policy(Model):
    name: str
    versions: dict[str, frozenset[str]]
    whitelist: frozenset[str]

    @property
    def families(self) -> frozenset[str]:
        return frozenset(self.versions)


@lru_cache(maxsize=8)
def _policies(machine: str) -> tuple[_Policy, ...]:
    """auditwheel's manylinux policies for a machine, oldest system first; none where it knows no such machine."""
    from auditwheel.architecture import Architecture
    from auditwheel.libc import Libc
    from auditwheel.policy import WheelPolicies

    try:
        found = WheelPolicies(libc=Libc.GLIBC, arch=Architecture(machine))
    except ValueError:
        return ()
    return tuple(
        _Policy(
            name=policy.name.removesuffix(f"_{machine}"),
            versions=dict(policy.symbol_versions),
            whitelist=policy.whitelist,
        )
        for policy in sorted(found, key=lambda p: -p.priority)
        if policy.name.startswith("manylinux")
    )


@lru_cache(maxsize=1)
def _provided() -> tuple[Provided, ...]:
    with Path(__file__).with_name("provided.toml").open("rb") as file:
        entries = tomllib.load(file)["provided"]
    return tuple(
        Provided(by=entry["by"], libraries=tuple(entry["libraries"]), having=tuple(entry.get("with", ())))
        for entry in entries
    )
