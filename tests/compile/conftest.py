"""A tree that is built as a release is (setup.py, CMake, ninja, C++), only in a second."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.stages.compile.model import Compiler, CompileSpec

SETUP = """
import os, shutil, subprocess, sys
from pathlib import Path
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEVICE = os.environ["VLLM_TARGET_DEVICE"]


def get_version(**_):
    return os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]


def _is_cpu():
    return DEVICE == "cpu"


def get_vllm_version():
    version = get_version(write_to="vllm/_version.py")
    sep = "+" if "+" not in version else "."
    if _is_cpu():
        version += f"{sep}cpu"
    return version


class CMakeExtension(Extension):
    def __init__(self, name):
        super().__init__(name, sources=[], py_limited_api=True)


class cmake_build_ext(build_ext):
    def build_extensions(self):
        jobs = int(os.environ["MAX_JOBS"])
        args = [f"-DCMAKE_BUILD_TYPE={os.environ['CMAKE_BUILD_TYPE']}"]
        for launcher in ("sccache", "ccache"):
            if shutil.which(launcher):
                args += [f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}"]
                break
        args += ["-G", "Ninja", "-DCMAKE_JOB_POOL_COMPILE=compile", f"-DCMAKE_JOB_POOLS=compile={jobs}"]
        os.makedirs(self.build_temp, exist_ok=True)
        source = os.path.abspath(".")
        subprocess.check_call(["cmake", source, *args], cwd=self.build_temp)
        targets = [e.name.removeprefix("vllm.") for e in self.extensions]
        subprocess.check_call(
            ["cmake", "--build", ".", f"-j={jobs}", *[f"--target={t}" for t in targets]], cwd=self.build_temp
        )
        prefix = Path(self.build_lib).absolute()
        for t in targets:
            subprocess.check_call(
                ["cmake", "--install", ".", "--prefix", prefix, "--component", t], cwd=self.build_temp
            )


extensions = [] if DEVICE == "empty" else [CMakeExtension("vllm._C")]
setup(
    name="vllm",
    version=get_vllm_version(),
    packages=["vllm"],
    ext_modules=extensions,
    cmdclass={"build_ext": cmake_build_ext} if extensions else {},
)
"""

CMAKE = """
cmake_minimum_required(VERSION 3.21)
project(fake LANGUAGES CXX)
file(GLOB units csrc/unit_*.cpp)
add_library(_C MODULE ${units})
target_include_directories(_C PRIVATE csrc)
set_target_properties(_C PROPERTIES PREFIX "" SUFFIX "$ENV{FAKE_SUFFIX}.abi3.so")
install(TARGETS _C LIBRARY DESTINATION vllm COMPONENT _C)
"""


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """``make_tree("a", units=4)``: a fresh tree in a folder of its own."""

    def make(name: str = "tree", *, units: int = 4) -> Path:
        tree = tmp_path / name
        (tree / "vllm").mkdir(parents=True)
        (tree / "csrc").mkdir()
        (tree / "vllm/__init__.py").write_text("")
        (tree / "setup.py").write_text(SETUP)
        (tree / "CMakeLists.txt").write_text(CMAKE)
        (tree / "csrc/common.h").write_text("inline int common() { return 1; }\n")
        for number in range(units):
            (tree / f"csrc/unit_{number}.cpp").write_text(
                f'#include "common.h"\nint unit_{number}() {{ return common() + {number}; }}\n'
            )
        return tree

    return make


@pytest.fixture
def wrapper(tmp_path: Path, cxx: str) -> Callable[[str], Compiler]:
    """A C++ compiler that runs some shell lines first; ``$unit`` is the unit's name, if it compiles one."""

    def make(lines: str) -> Compiler:
        script = tmp_path / "wrapped-c++"
        script.write_text(
            textwrap.dedent("""\
            #!/bin/sh
            unit=
            case "$*" in *" -c "*unit_*) unit="${*##*/}";; esac
            %s
            exec %s "$@"
            """)
            % (lines, cxx)
        )
        script.chmod(0o755)
        return Compiler(language="CXX", id="GNU", version="12.0.0", target="t", path=str(script))

    return make


@pytest.fixture
def spec() -> CompileSpec:
    return CompileSpec(device="cpu", version="1.2.3+cpu", scm_version="1.2.3", limited_api="cp38", jobs=2)
