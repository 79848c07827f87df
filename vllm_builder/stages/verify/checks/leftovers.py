"""What a build leaves in a wheel, and what packing loses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from vllm_builder.stages.verify.inspecting import may_be_library
from vllm_builder.stages.verify.model import Finding, Severity, count
from vllm_builder.stages.verify.subject import Part, Subject
from vllm_builder.stages.verify.table import table

_STRAY: Final = re.compile(
    r"(^|/)(__pycache__|CMakeFiles|\.git|\.deps|_deps|\.pytest_cache)/|\.(o|a|obj|pyc|pyo|ninja|gcda|gcno|egg-info)$"
    r"|(^|/)(CMakeCache\.txt|cmake_install\.cmake|\.ninja_log|\.ninja_deps|compile_commands\.json|\.gitignore)$"
)
_PERSONAL: Final = re.compile(r"/(home|root|Users|tmp|var/tmp|private|workspaces)/")
_DEBUG_ERROR: Final = 0.1
"""Share of the unpacked wheel from which on debug info is an error."""
_SHOWN: Final = 5


def rpaths(subject: Subject) -> Iterator[Finding]:
    found: dict[str, list[Part]] = {}
    for part in subject.parts:
        for folder in dict.fromkeys((*part.library.rpath, *part.library.runpath)):
            if not folder.startswith(("$ORIGIN", "${ORIGIN}")):
                found.setdefault(folder, []).append(part)
    for folder, parts in found.items():
        yield Finding(
            check="rpath",
            severity="error",
            what=f"{', '.join(part.short for part in parts)}: libraries are looked for in {folder} (RPATH or RUNPATH).",
            where=", ".join(part.name for part in parts),
            why="A folder of the machine that built it: where it exists, other libraries are loaded from it than are "
            "meant, and whoever can write there runs code.",
            cure="Take it out of LDFLAGS if it is there; else strip it (patchelf --remove-rpath), or link with "
            "-DCMAKE_SKIP_RPATH=ON.",
        )


def source_paths(subject: Subject) -> Iterator[Finding]:
    personal: list[tuple[Part, str]] = []
    other: list[tuple[Part, str]] = []
    for part in subject.parts:
        for path in part.paths:
            (personal if _PERSONAL.match(path) else other).append((part, path))
    graded: tuple[tuple[Severity, list[tuple[Part, str]]], ...] = (("warning", personal), ("info", other))
    for severity, found in graded:
        if not found:
            continue
        roots = sorted({"/".join(path.split("/")[:3]) for _, path in found})
        names = ", ".join(dict.fromkeys(part.short for part, _ in found))
        yield Finding(
            check="build-path",
            severity=severity,
            what=f"{len(found)} source files are named by their path on the machine that built the wheel, under "
            f"{', '.join(roots[:_SHOWN])}{' and more' if len(roots) > _SHOWN else ''}.",
            where=names,
            why="Two builds in two folders differ, and the path tells of the machine.",
            cure="Compile with -ffile-prefix-map=FOLDER=.",
        )


def debug_info(subject: Subject) -> Iterator[Finding]:
    total = sum(member.size for member in subject.wheel.members.values()) or 1
    found = [part for part in subject.parts if part.library.debug]
    size = sum(part.library.debug for part in found)
    if not found:
        return
    names = ", ".join(part.short for part in found[:_SHOWN]) + (" and more" if len(found) > _SHOWN else "")
    yield Finding(
        check="debug-info",
        severity="error" if size > _DEBUG_ERROR * total and size > 1 << 20 else "warning",
        what=f"{_mb(size)} of debug info were left in ({names}): {size / total:.0%} of the unpacked wheel.",
        where=found[0].name,
        why="Nobody needs it to run vLLM, and everybody downloads it.",
        cure="Build with --build-type Release, or strip the libraries (strip --strip-debug).",
    )


def stray_files(subject: Subject) -> Iterator[Finding]:
    wheel = subject.wheel
    package = wheel.name.replace("-", "_")
    own = {package, wheel.dist_info, wheel.dist_info.removesuffix(".dist-info") + ".data"}
    stray = [name for name in wheel.members if _STRAY.search(name)]
    # Other distributions bring packages of other names; vLLM's wheel is known to bring one.
    top = (
        [n for n in wheel.members if n.split("/")[0] not in own and n not in stray]
        if package == "vllm"
        else []
    )
    for kind, names, why in (
        ("outside of the package", top, "It is put beside all other packages, and may overwrite theirs."),
        ("of the build", stray, "It is of no use where the wheel is installed."),
    ):
        if names:
            yield Finding(
                check="stray-file",
                severity="warning",
                what=f"{count(len(names), 'file')} {kind} {'is' if len(names) == 1 else 'are'} in the wheel: "
                f"{', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}.",
                where=names[0],
                why=why,
                cure="Build in a clean tree; look in package_data and packages of its setup.py.",
            )


def executable_bits(subject: Subject) -> Iterator[Finding]:
    """Programs that are not marked as such. Scripts in .data/scripts get their bit from installers, modules need none."""
    wheel = subject.wheel
    before = subject.against.wheel.members if subject.against else {}
    for member in wheel.members.values():
        if member.executable:
            continue
        old = before.get(member.name)
        if _program(subject, member.name) or (
            old is not None and old.executable and not may_be_library(member)
        ):
            yield Finding(
                check="executable",
                severity="error",
                what=f"{member.name} is a program and is not marked executable.",
                where=member.name,
                why="Installers keep the mode that the wheel says: it cannot be run where it is installed.",
                cure="Pack the wheel with a tool that keeps modes (not a plain zip of an unpacked folder).",
            )


def _program(subject: Subject, name: str) -> bool:
    """An ELF file that is no library by its name."""
    path = PurePosixPath(name)
    if path.suffix or ".so." in path.name or ".data/scripts/" in name or ".dist-info/" in name:
        return False
    if subject.wheel.members[name].size < 64 or name in subject.unreadable:
        return False
    return next(subject.wheel.chunks(name), b"")[:4] == b"\x7fELF"


def size(subject: Subject) -> Iterator[Finding]:
    have, limit = subject.wheel.size, subject.expected.max_size
    gate = table().size_gate(subject.expected.release)
    if limit and have > limit:
        yield Finding(
            check="size",
            severity="error",
            what=f"The wheel has {_mb(have)}, and {_mb(limit)} are allowed.",
            why="It was asked for with --max-size.",
            cure="Build for fewer architectures, or with --build-type Release.",
        )
    elif not limit and gate and have > gate:
        yield Finding(
            check="size",
            severity="info",
            what=f"The wheel has {_mb(have)}; upstream allows its own wheels of this release {_mb(gate)}.",
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
