"""A toolkit from packages: its lock, and the stub of the driver's library."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from vllm_builder.errors import ResolutionError
from vllm_builder.stages.compile.toolchain import command_of, probe_compilers
from vllm_builder.stages.toolkit import ToolkitSpec, toolkit_home
from vllm_builder.stages.toolkit.lock import check_lock
from vllm_builder.stages.toolkit.stub import driver_symbols, make_stub

LOCK = (
    "cuda-toolkit==13.0.2",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvvm==13.0.88",
)
HEADER = """
/* cuda.h: ::cuMentioned() is only spoken of. #define cuNot cuNot_v9 */
#define CUDAAPI
#define cuMemAlloc                          cuMemAlloc_v2
#define cuMemcpyHtoD                        __CUDA_API_PTDS(cuMemcpyHtoD_v2)
#define cuStreamWaitValue32                 __CUDA_API_PTSZ(cuStreamWaitValue32_v2)
#define CUDA_VERSION 13000
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
CUresult CUDAAPI
    cuTensorMapEncodeTiled(CUtensorMap *map);
typedef enum CUresult_enum { CUDA_SUCCESS } CUresult; // cuTrailing(
"""


def spec(*lock: str) -> ToolkitSpec:
    return ToolkitSpec(release="13.0.2", nvcc="13.0.88", lock=lock)


def test_a_lock_of_one_release_is_accepted() -> None:
    check_lock(spec(*LOCK))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("nvidia-nvvm", "13.5.37"),
        ("nvidia-cuda-crt", "13.0.48"),
        ("nvidia-cuda-cccl", "13.1.5"),
        ("nvidia-cuda-runtime", "13.2.1"),
    ],
)
def test_parts_of_different_releases_are_refused(name: str, version: str) -> None:
    mixed = tuple(f"{name}=={version}" if line.startswith(f"{name}==") else line for line in LOCK)
    with pytest.raises(ResolutionError) as caught:
        check_lock(spec(*mixed))
    assert f"{name} is {version}" in caught.value.why
    with pytest.raises(ResolutionError) as caught:
        check_lock(spec(*(line for line in LOCK if not line.startswith(f"{name}=="))))
    assert f"{name} is absent" in caught.value.why


def test_another_lock_is_another_folder(tmp_path: Path) -> None:
    assert toolkit_home(spec(*LOCK), tmp_path) != toolkit_home(spec(*LOCK, "nvidia-nvtx==13.0.85"), tmp_path)


def test_symbols_under_all_their_spellings() -> None:
    assert set(driver_symbols(HEADER)) == {
        "cuInit",
        "cuMemAlloc",
        "cuMemAlloc_v2",
        "cuMemcpyHtoD",
        "cuMemcpyHtoD_v2",
        "cuMemcpyHtoD_v2_ptds",
        "cuStreamWaitValue32",
        "cuStreamWaitValue32_v2",
        "cuStreamWaitValue32_v2_ptsz",
        "cuTensorMapEncodeTiled",
    }


def test_the_stub_exports_them(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text(HEADER)
    compiler = next(c for c in probe_compilers("cpu", os.environ) if c.language == "C")
    library = tmp_path / "libcuda.so"
    count = make_stub(tmp_path / "cuda.h", library, command_of(compiler.path), os.environ)
    loaded = ctypes.CDLL(str(library))
    for name in driver_symbols(HEADER):
        assert getattr(loaded, name)() == 999
    assert count == 10
    assert b"libcuda.so.1\0" in library.read_bytes()
    assert not (tmp_path / "libcuda.c").exists()
