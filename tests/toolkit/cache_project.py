"""A unit for two architectures, compiled as CMake's Ninja generator would have it, through a real compiler cache."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vllm_builder.stages.compile import compilercache, reproducible
from vllm_builder.stages.compile.model import Compiler, CompileSpec
from vllm_builder.stages.environment.model import Environment
from vllm_builder.stages.toolkit import Toolkit

HIT, MISS = {"hits": 1, "misses": 0, "uncacheable": 0}, {"hits": 0, "misses": 1, "uncacheable": 0}

_SOURCE = """\
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 1200
#include "placed.h"
#include "only120.h"
#endif
__global__ void k(float* x) {
#if !defined(__CUDA_ARCH__)
#elif __CUDA_ARCH__ == 1200 && defined(PLACED)
  *x = 5.0f;
#elif __CUDA_ARCH__ == 1200
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


class Project:
    """One unit, compiled through the cache as CMake's Ninja generator would."""

    def __init__(
        self,
        folder: Path,
        toolkit: Toolkit,
        cache: Path,
        tools: Path,
        *,
        split: bool = False,
        headers: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """``headers``: files of the tree besides, below it."""
        self.folder = folder
        self.place = folder / "build" / "temp"  # where setup.py has ninja run
        self.place.mkdir(parents=True)
        self.nvcc = Path(toolkit.home) / "bin" / "nvcc"
        self.env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **variables}
        spec = CompileSpec(
            device="cuda",
            archs=("10.0", "12.0"),
            version="1",
            scm_version="1",
            cuda_home=toolkit.home,
            compiler_cache="ccache",
            compiler_cache_dir=str(cache),
            passes_dir=f"{cache}-passes" if split else "",
            compilers=(_GCC,),
        )
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        for name in ("first", "second"):
            (folder / name).mkdir()
        for name in headers:
            (folder / name).write_text("#define PLACED 1\n")
        self.write()
        environment = Environment(
            python=Path("python"), bin=Path("bin"), packages={}, site_packages=(folder / "site-packages",)
        )
        reproducible.arrange(spec, self.env, tree=folder, environment=environment)
        self.log = compilercache.arrange(spec, self.env, tree=folder, state=self.state)

    def made(self) -> list[tuple[str, list[str]]]:
        """Of each call that reached the passes of nvcc, in order: why it was left to nvcc, and what was compiled."""
        lines = (self.state / "passes.jsonl").read_text().splitlines()
        return [(call["left"], call["made"]) for call in map(json.loads, lines)]

    def write(self, *, device: str = "90.0f", host: str = "1", header: str = "") -> None:
        (self.folder / "k.cu").write_text(_SOURCE % (device, host))
        (self.folder / "only120.h").write_text(header)
        (self.folder / "second" / "placed.h").write_text("// it is here\n")

    def compile(
        self, *options: str, archs: tuple[str, ...] = ("100", "120"), cached: bool = True
    ) -> tuple[dict[str, int], bytes]:
        """What ccache answered, and the object."""
        assert self.log is not None
        offset = self.log.stat().st_size if self.log.exists() else 0
        codes = [f"--generate-code=arch=compute_{a},code=[compute_{a},sm_{a}]" for a in archs]
        source = str(self.folder / "k.cu")  # CMake gives absolute paths
        command = [
            *("ccache", str(self.nvcc), *shlex.split(self.env["CUDAFLAGS"]), *codes),
            *("--no-compress", "-std=c++17", f"-I{self.folder}/first", f"-I{self.folder}/second", *options),
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
