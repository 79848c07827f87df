"""A stub of the driver's library, to link against on a machine without a driver."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.errors import InstallError

SONAME = "libcuda.so.1"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_DECLARED = re.compile(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(")
_SPELLED = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(cu[A-Z]\w*)[ \t]+([^\n]+)$", re.M)
_NAME = re.compile(r"\bcu[A-Z]\w*")
_PER_THREAD = {"__CUDA_API_PTSZ": "_ptsz", "__CUDA_API_PTDS": "_ptds"}


def driver_symbols(header: str) -> tuple[str, ...]:
    """The functions that a cuda.h declares, under all names that the driver exports them by, sorted.

    The header renames: ``#define cuMemAlloc cuMemAlloc_v2``; the object file then wants ``cuMemAlloc_v2``, or
    with per-thread streams ``cuMemcpyHtoD_v2_ptds``.
    """
    text = _COMMENT.sub(" ", header).replace("\\\n", " ")
    found = set(_DECLARED.findall(text))
    for name, value in _SPELLED.findall(text):
        targets = _NAME.findall(value)
        if not targets:
            continue
        found.update((name, *targets))
        for macro, suffix in _PER_THREAD.items():
            if macro in value:
                found.update(f"{target}{suffix}" for target in targets)
    return tuple(sorted(found))


def make_stub(header: Path, library: Path, compiler: list[str], environ: Mapping[str, str]) -> int:
    """Compile a shared library that exports every symbol of ``header`` and does nothing.

    It must export them: against an empty one everything links too, but then the linker drops the library and
    what comes out has undefined symbols that nothing provides.

    Returns:
        the number of symbols.

    Raises:
        InstallError
    """
    symbols = driver_symbols(header.read_text("utf-8", "replace"))
    source = library.with_suffix(".c")
    source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in symbols))
    command = [*compiler, "-shared", "-fPIC", "-O0", "-w", "-fno-builtin", f"-Wl,-soname,{SONAME}"]
    run = subprocess.run(
        [*command, "-o", str(library), str(source)],
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    source.unlink()
    if run.returncode or "cuInit" not in symbols:
        raise InstallError(
            "The stub of the driver's library cannot be made.",
            why=f"{len(symbols)} functions were read from {header}; the compiler ended with {run.returncode}.",
            next="Check the C compiler (CC), or use a toolkit of the machine with --cuda-home.",
            details=run.stderr.splitlines()[-10:],
        )
    return len(symbols)
