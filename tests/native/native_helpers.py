"""Plans of a toy release that is compiled as upstream's are (setup.py, CMake, ninja, C++), in seconds."""

from __future__ import annotations

import os
import platform
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_builder.cache import Cache, Workspace
from vllm_builder.events import Event, Note
from vllm_builder.indexes import Indexes
from vllm_builder.pipeline import BuildResult, run
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.environment.model import EnvironmentSpec, Interpreter, Torch
from vllm_builder.stages.native.forecasting import Forecast, forecast
from vllm_builder.stages.patch.operations import PatchSelection, ReplaceText, Step
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.source.paths import tree_identity
from vllm_builder.stages.verify.expectations import Expectations, ExpectedExtension

SETUP = """
import os, subprocess, sys
from pathlib import Path
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, "vllm")
import envs

version = os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]
Path("vllm/_version.py").write_text(f"version = {version!r}")


class cmake_build_ext(build_ext):
    def build_extensions(self):
        jobs = int(os.environ["MAX_JOBS"])
        args = ["-DCMAKE_BUILD_TYPE=" + os.environ["CMAKE_BUILD_TYPE"], *envs.FURTHER]
        args += ["-G", "Ninja", f"-DCMAKE_JOB_POOLS=compile={jobs}", "-DVLLM_PYTHON_EXECUTABLE=" + sys.executable]
        os.environ.update(envs.VARIABLES)
        os.makedirs(self.build_temp, exist_ok=True)
        subprocess.check_output(["cmake", "--version"])
        subprocess.check_call(["cmake", os.path.abspath("."), *args], cwd=self.build_temp)
        names = [e.name.removeprefix("vllm.") for e in self.extensions]
        build = ["cmake", "--build", ".", f"-j={jobs}", *[f"--target={n}" for n in names]]
        subprocess.check_call(build, cwd=self.build_temp)
        for name in names:
            install = ["cmake", "--install", ".", "--prefix", Path(self.build_lib).absolute(), "--component", name]
            subprocess.check_call(install, cwd=self.build_temp)


setup(
    name="vllm",
    version=version,
    packages=["vllm"],
    ext_modules=[Extension("vllm._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": cmake_build_ext},
)
"""

# As upstream's flash-attention: an install also writes Python files, and no list of CMake's names them.
CMAKE = r"""
cmake_minimum_required(VERSION 3.21)
project(toy LANGUAGES CXX)
# A call below a call, as for an external project: none of setup.py's.
execute_process(COMMAND cmake --build nowhere OUTPUT_QUIET ERROR_QUIET)
include(cmake/units.cmake)
add_library(_C MODULE ${units})
set_target_properties(_C PROPERTIES PREFIX "" SUFFIX ".abi3.so")
install(TARGETS _C LIBRARY DESTINATION vllm COMPONENT _C)
install(CODE "file(WRITE \"\${CMAKE_INSTALL_PREFIX}/vllm/attention/interface.py\" \"made = True\\n\")" COMPONENT _C)
"""

FILES = {
    "setup.py": SETUP,
    "CMakeLists.txt": CMAKE,
    "cmake/units.cmake": "file(GLOB units csrc/*.cpp)\n",
    "csrc/one.cpp": '#include "both.h"\nextern "C" int one() { return BOTH; }\n',
    "csrc/two.cpp": '#include "both.h"\nextern "C" int two() { return BOTH + 1; }\n',
    "csrc/both.h": "#define BOTH 1\n",
    "vllm/__init__.py": "answer = 42\n",
    "vllm/envs.py": "FURTHER = []\nVARIABLES = {}\n",
    "tests/test_it.py": "",
    "README.md": "toy\n",
}


@dataclass
class NativeToy:
    """A folder with a toy source, a cache and a workspace; its compiler counts how often it is started."""

    folder: Path
    cxx: str
    events: list[Event] = field(default_factory=list)
    result: BuildResult | None = None
    """Of the build that the cache came with."""

    def __post_init__(self) -> None:
        for path, text in FILES.items():
            self.write(path, text)
        self.compiler = self.folder / "c++"
        self.compiler.write_text(
            f'#!/bin/sh\ncase "$*" in *csrc*" -c "*|*" -c "*csrc*) echo "$*" >>{self.calls};; esac\n'
            f'exec {self.cxx} "$@"\n'
        )
        self.compiler.chmod(0o755)

    @property
    def first(self) -> BuildResult:
        assert self.result is not None
        return self.result

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def calls(self) -> Path:
        return self.folder / "compiled"

    @property
    def compiled(self) -> int:
        """How many units the compiler was started for, ever."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    def write(self, path: str, text: str) -> None:
        (self.source / path).parent.mkdir(parents=True, exist_ok=True)
        (self.source / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.source / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def plan(self, **changes: Any) -> Plan:
        """The plan of the source as it is now; ``spec_*`` go to the compile stage."""
        spec: dict[str, Any] = {
            "device": "cpu",
            "version": "1.2.3+cpu",
            "scm_version": "1.2.3+cpu",
            "limited_api": "cp38",
            "compilers": (
                Compiler(
                    language="CXX", id="GNU", version="12.2.0", target="x86_64", path=str(self.compiler)
                ),
            ),
            "jobs": 2,
        }
        spec |= {k.removeprefix("spec_"): changes.pop(k) for k in [*changes] if k.startswith("spec_")}
        python = Interpreter(path=sys.executable, version=platform.python_version(), tag="cp311")
        given: dict[str, Any] = {
            "source": SourcePin(
                kind="tree",
                release=spec["version"].split("+")[0],
                identity=tree_identity(self.source),
                name="source",
                location=str(self.source),
                reason="the test says so",
            ),
            "device": "cpu",
            "patches": PatchSelection(),
            "platform": "linux-x86_64",
            "torch": None,
            "compile": CompileSpec.model_validate(spec),
            "environment": EnvironmentSpec(python=python, lock=("cmake==3.31.0",), indexes=Indexes()),
            "expectations": Expectations(
                device="cpu",
                version=spec["version"],
                limited_api="cp38",
                extensions=(ExpectedExtension(name="vllm._C", path="vllm/_C", code="none"),),
            ),
            "build_torch": Torch(version="2.13.0"),
        }
        return Plan(**(given | changes))

    def build(
        self, plan: Plan | None = None, *, cache: str = "cache", workspace: str = "build", **more: Any
    ) -> BuildResult:
        self.events.clear()
        return run(
            plan or self.plan(),
            cache=Cache(self.folder / cache),
            workspace=Workspace(self.folder / workspace),
            environ={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            emit=self.events.append,
            **more,
        )

    def forecast(self, plan: Plan | None = None) -> Forecast:
        return forecast(plan or self.plan(), self.cache)

    @property
    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Note))


def patch_of(path: str, old: str, new: str) -> PatchSelection:
    operation = ReplaceText(action="replace_text", file=path, find=old, replace=new)
    return PatchSelection(steps=(Step(set="toy", number=1, operation=operation),))


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
