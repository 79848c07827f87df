"""A real toolkit from the package index."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vllm_builder.indexes import read_indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.toolkit import Toolkit, assemble, examine

pytestmark = pytest.mark.realbuild


def _run(*command: str | Path, cwd: Path, **environ: str) -> str:
    run = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_it_is_whole_and_reused(assembled: Toolkit, tmp_path: Path) -> None:
    assert assembled.spec is not None
    home = Path(assembled.home)
    found = examine(home / "bin" / "nvcc", "here", Memo(tmp_path, "plan"), environ=os.environ)
    assert (found.verdict, found.version, found.home) == ("whole", "13.0", str(home.resolve()))
    assert "10.0" in found.archs
    before = home.stat().st_ino
    again = assemble(assembled.spec, home.parent, os.environ, read_indexes({}), offline=True)
    assert Path(again.home).stat().st_ino == before


def test_what_is_linked_against_the_driver_names_the_driver(assembled: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text(
        "#include <cuda.h>\n#include <cub/cub.cuh>\n"
        "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n"
        'extern "C" void* go(float* x) { twice<<<1, 32>>>(x); return (void*)&cuTensorMapEncodeTiled; }\n'
    )
    nvcc = Path(assembled.home) / "bin" / "nvcc"
    options = ["-arch=sm_100", "-shared", "-Xcompiler", "-fPIC", "-cudart", "shared"]
    _run(nvcc, *options, "a.cu", "-lcuda", "-o", "liba.so", cwd=tmp_path)
    said = _run("readelf", "-d", "liba.so", cwd=tmp_path)
    assert "[libcuda.so.1]" in said
    assert "[libcudart.so.13]" in said
    # With every undefined symbol refused, the stub must have provided it.
    strict = ["-Xlinker", "--no-undefined", "-Xlinker", "-z", "-Xlinker", "defs"]
    _run(nvcc, *options, *strict, "a.cu", "-lcuda", "-o", "libb.so", cwd=tmp_path)


def test_cmake_accepts_it(assembled: Toolkit, tmp_path: Path, cmake: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(t LANGUAGES CXX)\n"
        "enable_language(CUDA)\nfind_package(CUDAToolkit REQUIRED)\n"
        'message(STATUS "version=${CUDAToolkit_VERSION} root=${CUDAToolkit_LIBRARY_ROOT}")\n'
        "foreach(part cudart cuda_driver cublas cublasLt curand cusolver cusparse nvrtc)\n"
        '  if(NOT TARGET CUDA::${part})\n    message(FATAL_ERROR "no CUDA::${part}")\n  endif()\nendforeach()\n'
        "add_library(t SHARED t.cu)\nset_property(TARGET t PROPERTY CUDA_ARCHITECTURES 100a)\n"
        "target_link_libraries(t PRIVATE CUDA::cudart CUDA::cuda_driver)\n"
    )
    (tmp_path / "t.cu").write_text("__global__ void k() {}\nvoid go() { k<<<1, 1>>>(); }\n")
    environ = {
        "CUDACXX": f"{assembled.home}/bin/nvcc",
        "CUDA_HOME": assembled.home,
        "CUDAToolkit_ROOT": assembled.home,
    }
    said = _run(cmake, "-S", ".", "-B", "build", cwd=tmp_path, **environ)
    assert "version=13.0" in said
    _run(cmake, "--build", "build", cwd=tmp_path, **environ)
    assert list((tmp_path / "build").glob("libt.so"))
