"""Libraries compiled on the spot, and fatbin containers written by hand."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

import pytest


def compile_c(folder: Path, source: str, *flags: str, name: str = "lib.so", compiler: str = "gcc") -> Path:
    """A shared library of a C source."""
    file = folder / f"{name}.c"
    file.write_text(source)
    target = folder / name
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", target, file, *flags], check=True, capture_output=True
    )
    return target


def readelf(path: Path, *options: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *options, path], check=True, capture_output=True, text=True, env={"LC_ALL": "C"}
    ).stdout


def symbols_by_readelf(path: Path) -> tuple[set[str], set[str]]:
    """Undefined and defined dynamic symbols, as ``name`` or ``name@VERSION``."""
    undefined, defined = set(), set()
    for line in readelf(path, "--dyn-syms").splitlines():
        match = re.match(
            r"\s*\d+: \S+\s+\S+ \S+\s+(GLOBAL|WEAK|UNIQUE)\s+(\S+)\s+(?:\[.*\]\s+)?(\S+) (\S+)", line
        )
        if match and match[3] == "UND":
            undefined.add(match[4])
        elif match and match[2] in ("DEFAULT", "PROTECTED"):
            defined.add(match[4].replace("@@", "@"))
    return undefined, defined


@cache
def nvcc() -> str:
    """A CUDA compiler that can make code for sm_100f; the test is skipped where there is none."""
    found = shutil.which("nvcc")
    if not found:
        pytest.skip("no nvcc on PATH")
    listed = subprocess.run([found, "--help"], capture_output=True, text=True).stdout
    if "sm_100f" not in listed:
        pytest.skip(f"{found} is older than 12.9: it cannot compile for sm_100f")
    return found


KERNELS = """
extern "C" __global__ void plain(float *x) { x[threadIdx.x] *= 2; }
template <class T> __global__ void general(T *x) { x[threadIdx.x] += 1; }
template __global__ void general<double>(double *);
"""


def compile_cuda(folder: Path, *flags: str, source: str = KERNELS, name: str = "lib.so") -> Path:
    """A shared library, or a bare fatbin with ``-fatbin``, of a CUDA source."""
    file = folder / f"{name}.cu"
    file.write_text(source)
    target = folder / name
    kind = [] if "-fatbin" in flags else ["-shared", "-Xcompiler", "-fPIC", "-cudart", "none"]
    subprocess.run([nvcc(), *kind, *flags, file, "-o", target], check=True, capture_output=True)
    return target


def entry(
    payload: bytes = b"",
    *,
    kind: int = 2,
    sm: int = 90,
    flags: int = 0x11,
    version: tuple[int, int] = (1, 8),
    extra: bytes = b"",
    raw: int = 0,
    mark: int = 0x0101,
    packed: int | None = None,
    room: int | None = None,
    header: int | None = None,
) -> bytes:
    """One entry of a container; compressed where ``raw`` is given. The last four are for lies."""
    padded = payload + b"\0" * (-len(payload) % 8)
    head = struct.pack(
        "<HHIQIIHHIIIQQQ",
        kind,
        mark,
        64 + len(extra) if header is None else header,
        len(padded) if room is None else room,
        (len(payload) if raw else 0) if packed is None else packed,
        0,
        version[1],
        version[0],
        sm,
        0,
        0,
        flags,
        0,
        raw,
    )
    return head + extra + padded


def container(
    *entries: bytes, magic: int = 0xBA55ED50, version: int = 1, header: int = 16, body: int | None = None
) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", magic, version, header, len(content) if body is None else body) + content


def parts(*pieces: tuple[int, int, int, int]) -> bytes:
    """The list of an entry of kind 256: start, size, SM and flags of each part."""
    records = b"".join(
        struct.pack("<HHIQQHHIQQQQ", 2, 0x0101, start, size, 0, 8, 1, sm, 0, flags, 0, 0)
        for start, size, sm, flags in pieces
    )
    return struct.pack("<II", len(pieces), 8 + len(records)) + records


def library_with(folder: Path, section: bytes, name: str = ".nv_fatbin") -> Path:
    """A real library, to which a section with the given contents was added."""
    library = compile_c(folder, "int f(void) { return 1; }")
    (folder / "section").write_bytes(section)
    subprocess.run(
        [
            "objcopy",
            f"--add-section={name}={folder / 'section'}",
            f"--set-section-flags={name}=alloc,readonly",
            library,
        ],
        check=True,
        capture_output=True,
    )
    return library
