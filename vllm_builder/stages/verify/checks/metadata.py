"""Does the wheel say of itself what is true: requirements, tags, hashes?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import WheelError
from vllm_builder.stages.verify.checks import torch_requirement
from vllm_builder.stages.verify.inspecting import foreign_libraries, may_be_library
from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.platforms import floor_of, required_names
from vllm_builder.stages.verify.requirements import (
    TORCH_FAMILY,
    name_of,
    normal,
    without_extras,
)
from vllm_builder.stages.verify.subject import Subject
from vllm_builder.wheelfile.metadata import valid_requirement

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_SHOWN = 8


def requirements(subject: Subject) -> Iterator[Finding]:
    """Requires-Dist against the release's own; torch's family may be absent or pinned anew."""
    yield from torch_requirement.invalid(subject)
    yield from torch_requirement.wanted(subject)
    if subject.expected.requirements is None:
        return
    expected = _by_name(subject.expected.requirements)
    found = _by_name(without_extras(subject.wheel.metadata.requires_dist))
    where = f"{subject.wheel.dist_info}/METADATA"
    for name in sorted(expected.keys() - found.keys() - TORCH_FAMILY):
        yield Finding(
            check="requirements",
            severity="error",
            what=f"The requirement {'; '.join(sorted(expected[name]))} is not in the wheel.",
            where=where,
            why=f"vLLM {subject.expected.release} names it for {subject.expected.device}: an "
            "installation without it breaks when "
            "that package is imported.",
            cure="Look what took it out of the requirement file (a line that happens to contain "
            "'torch'?), and build again.",
        )
    for name in sorted(filter(valid_requirement, found.keys() - expected.keys() - TORCH_FAMILY)):
        yield Finding(
            check="requirements",
            severity="warning",
            what=f"The wheel requires {'; '.join(sorted(found[name]))}, which the release does not.",
            where=where,
            why="It is installed with the wheel, and may exclude other packages.",
        )
    for name in sorted((found.keys() & expected.keys()) - TORCH_FAMILY):
        if found[name] != expected[name]:
            here = [torch_requirement.counts(lines, subject) for lines in (found[name], expected[name])]
            yield Finding(
                check="requirements",
                # What never counts where the wheel runs is as good as deleted.
                severity="error" if here == [False, True] else "warning",
                what=f"The wheel requires {'; '.join(sorted(found[name]))}, and the release "
                f"{'; '.join(sorted(expected[name]))}.",
                where=where,
            )


def identity(subject: Subject) -> Iterator[Finding]:
    """Name and version against the plan's; the file's own name was held against METADATA when it was opened."""
    wheel, expected = subject.wheel, subject.expected
    if wheel.name != "vllm" and expected.release:
        yield Finding(check="identity", severity="error", what=f"The wheel is of {wheel.name}, not of vllm.")
    if expected.version and not _same(str(wheel.version), expected.version):
        yield Finding(
            check="identity",
            severity="error",
            what=f"The wheel's version is {wheel.version}, and {expected.version} is expected.",
            why="It cannot be told apart from another build, or is another build.",
        )
    pythons = {tag.interpreter for tag in wheel.tags}
    if expected.limited_api and pythons != {expected.limited_api}:
        yield Finding(
            check="identity",
            severity="error",
            what=f"The wheel is tagged {', '.join(sorted(pythons))}, and {expected.limited_api} is expected.",
            why="It installs into other Pythons than the plan says.",
            cure="Look for py_limited_api in the tree's setup.py, setup.cfg and pyproject.toml.",
        )
    record = wheel.build_record
    if record is not None and expected.archs and record.archs and record.archs != expected.archs:
        yield Finding(
            check="identity",
            severity="info",
            what=f"It was built for {', '.join(record.archs)}, and held against {', '.join(expected.archs)}.",
        )


def tags(subject: Subject) -> Iterator[Finding]:
    """The file's name against WHEEL, and both against what the libraries want of the system."""
    wheel = subject.wheel
    inside = wheel.wheel_fields.expanded
    outside = {str(tag) for tag in wheel.tags}
    where = f"{wheel.dist_info}/WHEEL"
    if inside != outside:
        ours = wheel.build_record is not None
        alike = {_but_platform(tag) for tag in inside} == {_but_platform(tag) for tag in outside}
        yield Finding(
            check="stale-tag",
            # Renaming the file alone is what upstream does with its public wheels. Installers go by the name, so such a
            # wheel works; one that was renamed to another Python or machine does not, and ours are retagged as a whole.
            severity="warning" if alike and not ours else "error",
            what=f"The file is called {', '.join(sorted(outside))}, and WHEEL says {', '.join(sorted(inside))}.",
            where=where,
            why="The file was renamed by hand. Installers go by the name, tools that open the wheel "
            "by WHEEL: what one accepts "
            "another refuses.",
            cure="Retag it as a whole: `wheel tags --platform-tag ...`.",
        )
    libraries = [part.library for part in subject.parts]
    if not libraries:
        pure = all(tag.platform == "any" for tag in wheel.tags)
        if not (pure or foreign_libraries(wheel) or any(map(may_be_library, wheel.members.values()))):
            yield Finding(
                check="platform",
                severity="info",
                what="The wheel is tagged for one platform and holds no library.",
                where=where,
            )
        return
    names = {wheel.name, *required_names(wheel.metadata.requires_dist)}
    if subject.expected.torch or any("libtorch" in s for one in libraries for s in one.needed):
        names.add("torch")  # what the wheel was compiled against is there, required or not
    floor = floor_of(libraries, names)
    true = _glibc(floor.platform_floor)
    claimed = min((g for tag in wheel.tags if (g := _glibc(tag.platform)) is not None), default=None)
    if true and claimed and claimed < true:
        yield Finding(
            check="platform",
            severity="error",
            what=f"The name promises glibc {_dotted(claimed)}, and the libraries need {floor.platform_floor}.",
            where=where,
            why=f"An older system installs it and cannot load it: {floor.floor_reason}.",
            cure=f"Tag it {floor.platform_floor}, or build on an older system.",
        )
    machines = {part.library.machine for part in subject.parts}
    platforms = sorted(tag.platform for tag in wheel.tags)
    for machine in sorted(machines):
        if not any(platform.endswith(machine) for platform in platforms):
            yield Finding(
                check="platform",
                severity="error",
                what=f"The wheel is tagged for {', '.join(platforms)} and holds libraries for {machine}.",
                where=where,
            )
    if subject.expected.max_glibc:
        yield from _max_glibc(subject)
    if floor.outside:
        yield Finding(
            check="outside-libraries",
            severity="info",
            what=f"Neither the wheel, nor its requirements, nor every Linux brings {', '.join(floor.outside)}.",
            why="They have to be installed where the wheel runs.",
        )


def _max_glibc(subject: Subject) -> Iterator[Finding]:
    """By the versions themselves: the next manylinux may be a later one."""
    text = subject.expected.max_glibc
    carried = {PurePosixPath(part.name).name for part in subject.parts}
    wanted = [
        (_numbers(symbol.version.removeprefix("GLIBC_")), f"{part.short} wants {symbol.name}")
        for part in subject.parts
        for symbol in part.library.imports
        if re.fullmatch(r"GLIBC_\d+\.\d+(\.\d+)?", symbol.version) and symbol.library not in carried
    ]
    version, reason = max(wanted, default=((0, 0), ""))
    if version > _numbers(text):
        yield Finding(
            check="max-glibc",
            severity="error",
            what=f"The libraries want glibc {_dotted(version)}, and at most {text} is allowed.",
            why=f"{reason}@GLIBC_{_dotted(version)}: an older system cannot load it.",
            cure="Build on a system with an older glibc (a manylinux image).",
        )


def record(subject: Subject) -> Iterator[Finding]:
    """Every member against its hash."""
    wheel = subject.wheel
    try:
        problems = wheel.verify_record()
    except WheelError as error:
        yield Finding(
            check="record",
            severity="error",
            what=error.what,
            where=f"{wheel.dist_info}/RECORD",
            why=error.why,
        )
        return
    for problem in problems[:_SHOWN]:
        yield Finding(
            check="record",
            severity="error",
            what=problem.what if problem.member in problem.what else f"{problem.member}: {problem.what}",
            where=problem.member,
            why="The wheel is not the one that was packed: it was damaged or changed since.",
            cure="Fetch it again; if it is your own, build it again.",
        )
    if len(problems) > _SHOWN:
        yield Finding(
            check="record",
            severity="error",
            what=f"{len(problems) - _SHOWN} more members are not as RECORD says.",
        )


def _by_name(texts: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        found[name_of(text)].add(normal(text))
    return dict(found)


def _same(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _but_platform(tag: str) -> str:
    """Python, ABI and machine."""
    python, abi, platform = tag.split("-", 2)
    machine = re.sub(r"^(many|musl)?linux(\d+|_\d+_\d+)?_", "", platform)
    return f"{python}-{abi}-{machine}"


def _glibc(platform: str) -> tuple[int, int] | None:
    if match := _MANYLINUX.fullmatch(platform):
        return int(match[1]), int(match[2])
    return next((v for name, v in _LEGACY.items() if platform.startswith(f"{name}_")), None)


def _numbers(text: str) -> tuple[int, int]:
    major, minor, *_ = [*text.split("."), "0"]
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
