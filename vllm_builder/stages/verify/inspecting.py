"""What is in a wheel, on disk or behind a URL."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final

from vllm_builder.binary import is_elf, read_library
from vllm_builder.binary.model import Library
from vllm_builder.errors import WheelError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.stages.verify.model import Inspection, MemberSize, Module, count
from vllm_builder.stages.verify.platforms import floor_of, required_names
from vllm_builder.stages.verify.torch_abi import cxx_symbols, oldest_torch, stable_symbols
from vllm_builder.wheelfile import open_wheel
from vllm_builder.wheelfile.directory import Member
from vllm_builder.wheelfile.sources import Unreachable
from vllm_builder.wheelfile.wheel import Wheel

LARGEST: Final = 10
_LIBRARY: Final = re.compile(r".*\.so(\.\d+)*")
_GPU_FILES: Final = (".cubin", ".fatbin", ".ptx")
_ELSEWHERE: Final = (".so", ".dylib", ".dll", ".pyd", ".exe")
"""Endings of libraries and programs of macOS and Windows."""
_LINKER_SCRIPT: Final = (b"INPUT", b"GROUP", b"OUTPUT_FORMAT", b"/* GNU ld script")
_RUNTIME: Final = re.compile(r"libcudart\.so\.(\d+)(\.\d+)*")
_PREFIX: Final = {"sass": "sm_", "ptx": "compute_", "ltoir": "lto_"}
"""As nvcc writes it in ``-gencode code=``."""
_AT_ONCE: Final = 4


def inspect(location: str | Path, *, emit: Emit = ignore, libraries: bool = True) -> Inspection:
    """Read a wheel; nothing of it is run.

    Args:
        location: a path, or an address whose server is asked for what is wanted only.
        libraries: read the libraries too: of a remote wheel for CUDA they are nearly all of it.

    Raises:
        WheelError: it is no wheel, is damaged, or holds something that is not understood.
        NoSpace: there is no room to unpack its libraries in the folder for temporary files.
    """
    with open_wheel(location, emit=emit) as wheel:
        return inspect_wheel(wheel, emit=emit, libraries=libraries)


def inspect_wheel(wheel: Wheel, *, emit: Emit = ignore, libraries: bool = True) -> Inspection:
    """As :func:`inspect`, of a wheel that is open."""
    metadata = wheel.metadata
    not_read = []
    candidates = [member for member in wheel.members.values() if may_be_library(member)]
    if not libraries and candidates:
        size = sum(member.compressed for member in candidates)
        not_read.append(f"{len(candidates)} libraries and programs ({size / 1e6:.1f} MB compressed)")
    elif wheel.remote:
        size = sum(member.compressed for member in candidates)
        if size > 10_000_000:
            emit(
                Note(
                    stage="verify",
                    message=f"Reading {size / 1e6:.0f} of {wheel.size / 1e6:.0f} MB over the network "
                    "(--no-libraries leaves the libraries out).",
                )
            )
    unreadable: dict[str, str] = {}
    modules = read_modules(wheel, candidates, unreadable) if libraries else ()
    not_read += foreign_libraries(wheel)
    try:
        record = wheel.build_record
    except WheelError as error:
        record = None
        not_read.append(f"its build record: {error.what} {error.why}".strip())
    names = {wheel.name, *required_names(metadata.requires_dist)}
    if record and record.torch:  # one that is there already was compiled against, and may be left out of them
        names.add("torch")
    floor = floor_of([module.library for module in modules], names)
    largest = sorted(wheel.members.values(), key=lambda member: (-member.size, member.name))[:LARGEST]
    return Inspection(
        location=wheel.location,
        filename=wheel.filename,
        size=wheel.size,
        name=metadata.name,
        version=metadata.version,
        tags=wheel.wheel_tags,
        filename_tags=tuple(sorted(map(str, wheel.tags))),
        requires_dist=metadata.requires_dist,
        requires_python=metadata.requires_python,
        modules=modules,
        unreadable=dict(sorted(unreadable.items())),
        size_by_kind=_by_kind(wheel, modules),
        largest=tuple(MemberSize(name=m.name, size=m.size, compressed=m.compressed) for m in largest),
        members=len(wheel.members),
        unpacked=sum(member.size for member in wheel.members.values()),
        **floor.model_dump(),
        record=record,
        sbom=wheel.has_sbom,
        not_read=tuple(not_read),
    )


def may_be_library(member: Member) -> bool:
    """By its name a shared library or a program; what it is, its first bytes tell."""
    path = PurePosixPath(member.name)
    return bool(_LIBRARY.fullmatch(path.name)) or (
        (member.executable or ".data/scripts/" in member.name) and not path.suffix and member.size > 4096
    )


def foreign_libraries(wheel: Wheel) -> list[str]:
    """What cannot be looked into since it is for macOS or Windows, in words; empty of a wheel that fits Linux."""
    platforms = sorted({tag.platform for tag in wheel.tags})
    if any("linux" in platform or platform == "any" for platform in platforms):
        return []
    found = [m for m in wheel.members.values() if PurePosixPath(m.name).suffix.lower() in _ELSEWHERE]
    size = sum(member.size for member in found)
    named = f"{count(len(found), 'library or program', 'libraries and programs')} ({size / 1e6:.1f} MB)"
    return [f"{named} for {', '.join(platforms)}: only those of Linux are understood"] if found else []


def no_library(member: Member, data: memoryview) -> str:
    """Why a file that is called as a library is none; empty where that is nothing to remark.

    A linker script (``libfoo.so`` for those who link) and a program without ending that is a script are sound.
    """
    name = PurePosixPath(member.name).name
    if not _LIBRARY.fullmatch(name):
        return ""
    head = bytes(data[:40])
    if not head:
        return "It is empty."
    if head.lstrip().startswith(_LINKER_SCRIPT) and ".abi3." not in name and ".cpython-" not in name:
        return ""
    return f"It is no shared library of Linux: it begins with {head[:24]!r}."


def read_modules(
    wheel: Wheel, members: Iterable[Member], unreadable: dict[str, str] | None = None
) -> tuple[Module, ...]:
    """Those of the members that are libraries or programs, in the order of their names.

    Args:
        unreadable: gets the others that should be one, with the reason; without it the first of them is raised.

    Raises:
        WheelError: one cannot be read, or (whatever ``unreadable``) the wheel cannot be had any more.
    """

    def read(member: Member) -> Module | None:
        try:
            return _module(wheel, member, foreign)
        except Unreachable:
            raise
        except WheelError as error:
            if unreadable is None:
                raise
            unreadable[member.name] = " ".join(filter(None, (error.what, error.why)))
            return None

    foreign = bool(foreign_libraries(wheel))
    wanted = sorted(members, key=lambda member: -member.size)
    # Inflating runs beside Python; more at once would only cost memory.
    with ThreadPoolExecutor(max(1, min(_AT_ONCE, os.cpu_count() or 1))) as pool:
        found = list(pool.map(read, wanted))
    return tuple(sorted((m for m in found if m is not None), key=lambda m: m.library.name))


def _module(wheel: Wheel, member: Member, foreign: bool) -> Module | None:
    with wheel.mapped(member.name) as data:
        if not is_elf(data):
            if not foreign and (why := no_library(member, data)):
                raise WheelError(
                    f"{member.name} cannot be read.", why=why, next="Fetch or build the wheel again."
                )
            return None
        library = read_library(data, name=member.name)
    return describe(library, size=member.size, compressed=member.compressed)


def describe(library: Library, *, size: int, compressed: int) -> Module:
    """What a person wants to know of a library."""
    sass: Counter[str] = Counter()
    ptx: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for unit in library.units:
        sass.update({code.arch for code in unit.codes if code.kind == "sass"})
        ptx.update({code.arch for code in unit.codes if code.kind == "ptx"})
        for code in unit.codes:
            stored[_PREFIX[code.kind] + code.arch.replace(".", "")] += code.stored
    codes = [code for unit in library.units for code in unit.codes]
    isa = max((code.version for code in codes if code.kind == "ptx"), default=None)
    names = [symbol.name for symbol in library.imports]
    cxx, stable = cxx_symbols(names), stable_symbols(names)
    return Module(
        library=library,
        size=size,
        compressed=compressed,
        sass=_ordered(sass),
        ptx=_ordered(ptx),
        bytes_by_arch=dict(sorted(stored.items(), key=lambda item: -item[1])),
        ptx_isa=f"{isa[0]}.{isa[1]}" if isa else "",
        compression=tuple(sorted({code.compression for code in codes})),
        cuda_runtime=_runtime(library, names),
        abi3=_abi3(library),
        stable_torch=oldest_torch(stable) if stable and not cxx else "",
        torch_symbols=len(cxx) + len(stable),
    )


def _ordered(counts: Counter[str]) -> dict[str, int]:
    def key(arch: str) -> tuple[float, str]:
        return float(arch.rstrip("af")), arch

    return {arch: counts[arch] for arch in sorted(counts, key=key)}


def _runtime(library: Library, imports: Sequence[str]) -> str:
    for soname in library.needed:
        if match := _RUNTIME.fullmatch(soname):
            return match[1]
    # GPU code is registered by a function of the runtime: where nobody is asked for it, it is inside.
    return "static" if library.units and "__cudaRegisterFatBinary" not in imports else ""


def _abi3(library: Library) -> bool | None:
    name = PurePosixPath(library.name).name
    if ".abi3." in name:
        return True
    return False if library.init or ".cpython-" in name else None


def _by_kind(wheel: Wheel, modules: Sequence[Module]) -> dict[str, int]:
    """Bytes uncompressed; every byte of every member counts once."""
    kinds: Counter[str] = Counter()
    read = {module.library.name: module for module in modules}
    for member in wheel.members.values():
        if module := read.get(member.name):
            gpu = sum(module.bytes_by_arch.values())
            debug = module.library.debug
            kinds["gpu code"] += gpu
            kinds["debug info"] += debug
            kinds["host code"] += member.size - gpu - debug
        else:
            kinds[_kind(member, wheel.dist_info)] += member.size
    return {kind: size for kind, size in kinds.most_common() if size}


def _kind(member: Member, dist_info: str) -> str:
    suffix = PurePosixPath(member.name).suffix
    if member.name.startswith(f"{dist_info}/"):
        return "metadata"
    if suffix in {".py", ".pyi"}:
        return "python"
    if suffix in _GPU_FILES:
        return "gpu code"
    return "libraries" if may_be_library(member) else "data"
