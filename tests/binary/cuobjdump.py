"""NVIDIA's own tool as an oracle: what it says of the GPU code in a library."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from vllm_builder.binary.model import Library

Piece = tuple[str, str, tuple[int, int], bool]
"""Kind, architecture with its suffix, version, compressed or not."""
_KINDS = {"elf": "sass", "ptx": "ptx", "nvvm": "ltoir"}


def cuobjdump() -> Path | None:
    """The tool on PATH, or of PyPI's nvidia-cuda-cuobjdump in this environment."""
    if found := shutil.which("cuobjdump"):
        return Path(found)
    try:
        listed = files("nvidia-cuda-cuobjdump") or []
    except PackageNotFoundError:
        return None
    return next((Path(os.fspath(f.locate())) for f in listed if f.name == "cuobjdump"), None)


def difference(tool: Path, path: Path, library: Library) -> str:
    """What the tool says of a library and was not read, or the other way round; empty for agreement.

    Raises:
        Unreadable
    """
    told, read = Counter(pieces(tool, path)), Counter(ours(library))
    more, less = told - read, read - told
    return f"only cuobjdump: {dict(more)}; only ours: {dict(less)}" if more or less else ""


class Unreadable(Exception):
    """The tool gave up."""


def pieces(tool: Path, path: Path) -> list[Piece]:
    """All GPU code of a library in the tool's order.

    ``--list-elf`` would hide suffixes (it prints sm_100 for 10.0f); the heads of its dumps tell them.
    """
    found: list[Piece] = []
    kind = arch = ""
    version = (0, 0)
    for line in _lines([tool, "--all-fatbin", "--dump-elf-symbols", path]):
        words = line.split()
        if words[:1] == ["Fatbin"] and len(words) == 3:
            kind = _KINDS[words[1]]
        elif words[:2] == ["arch", "="]:
            arch = _arch(words[2])
        elif line.lstrip().startswith("code version = [") and kind:
            major, minor = words[3].strip("[]").split(",")
            version = (int(major), int(minor))
            found.append((kind, arch, version, False))
        elif words == ["compressed"] and kind:
            found[-1] = (kind, arch, version, True)
        elif words == ["symbols:"]:
            kind = ""
    return found


def _lines(command: list[str | Path]) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        yield from process.stdout
        errors = process.stderr.read()
    # Of a library without GPU code it says so, and ends with 255.
    if process.returncode and "does not contain device code" not in errors:
        raise Unreadable(errors)


def _arch(sm: str) -> str:
    number = sm.removeprefix("sm_")
    digits = number.rstrip("af")
    return f"{digits[:-1]}.{digits[-1]}{number[len(digits) :]}"


def ours(library: Library) -> list[Piece]:
    """The same of what was read here: linked sections first, as the tool goes."""
    units = sorted(library.units, key=lambda unit: unit.section != ".nv_fatbin")
    return [
        (code.kind, code.arch, code.version, code.compression != "none" and code.block == (0, 0))
        for unit in units
        for code in unit.codes
    ]
