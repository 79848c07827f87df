"""Tiny wheels, and what finish makes of them."""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_builder.stages.finish import Finished, FinishSpec, Materials, finish
from vllm_builder.stages.patch.operations import CreateFile, PatchSelection, Step
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.vendor.model import Lock
from vllm_builder.wheelfile.record import BuildRecord

INFO = "vllm-1.2.3+cpu.dist-info"
METADATA = """\
Metadata-Version: 2.4
Name: vllm
Version: 1.2.3+cpu
Requires-Dist: numpy
Requires-Dist: torch==9.9.9
Requires-Dist: torchvision==0.1; platform_machine == "x86_64"

# vLLM
"""
MACHINE = platform.machine()


def make_wheel(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    tag: str = "py3-none-any",
    metadata: str = METADATA,
    executable: frozenset[str] = frozenset(),
    order: int = 1,
    compression: int = zipfile.ZIP_DEFLATED,
    when: tuple[int, int, int, int, int, int] = (2024, 5, 6, 7, 8, 10),
) -> Path:
    """A wheel as a build backend writes it. ``order`` is the step through the names: -1 turns them round."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = (
        f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {str('any' in tag).lower()}\nTag: {tag}\n\n"
    )
    content: dict[str, bytes] = {
        "vllm/__init__.py": b"answer = 42\n",
        "vllm/data.txt": b"many words " * 5000,
        **(files or {}),
        f"{INFO}/METADATA": metadata.encode(),
        f"{INFO}/WHEEL": wheel.encode(),
    }
    lines = []
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    record = f"{INFO}/RECORD"
    content = {
        name: content[name] for name in [*list(content)[::order]]
    } | {record: ("".join(lines) + f"{record},,\n").encode()}  # fmt: skip
    path = folder / f"vllm-1.2.3+cpu-{tag}.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            info = zipfile.ZipInfo(name, when)
            info.external_attr = (0o100777 if name in executable else 0o100664) << 16
            info.compress_type = compression
            archive.writestr(info, data)
    return path


def record(**more: Any) -> BuildRecord:
    given = {"builder": "vllm-builder 0.1.0", "digest": "ab" * 32, "release": "1.2.3", "version": "1.2.3+cpu"}
    return BuildRecord.model_validate({**given, "device": "cpu", "torch": "2.9.1+cpu", **more})


def materials(identity: str = "git:" + "c" * 40, externals: Lock | None = None) -> Materials:
    operation = CreateFile(action="create_file", file="a.py", content="")
    return Materials(
        source=SourcePin(
            kind="git", release="1.2.3", identity=identity, name="v1.2.3", location="/somewhere", reason=""
        ),
        externals=externals,
        patches=PatchSelection(steps=(Step(set="torch-pins", number=1, operation=operation),)),
    )


def finished(wheel: Path, out: Path, spec: FinishSpec | None = None, **more: Any) -> Finished:
    spec = spec or FinishSpec(torch="torch~=2.9.1")
    return finish(wheel, spec, record(), more.pop("materials", materials()), out=out, **more)


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def library(folder: Path, *link: str, source: str = "int answer(void) { return 42; }") -> bytes:
    """A shared library that was really compiled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "x.c", "-o", "x.so", *link], cwd=folder, check=True)
    return (folder / "x.so").read_bytes()
