"""Putting a toolkit together, from wheels that hold a script for an nvcc. No network."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from vllm_builder.errors import CompilerMissing, InstallError, OfflineMissing, ResolutionError
from vllm_builder.events import Event, Measured
from vllm_builder.indexes import Indexes
from vllm_builder.stages.toolkit import ToolkitSpec, assemble, toolkit_home

NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 13.0, V13.0.88"\n'
HEADER = "#define CUDAAPI\nint CUDAAPI cuInit(unsigned int);\nint CUDAAPI cuTensorMapEncodeTiled(void);\n"
PACKAGES: dict[str, dict[str, str]] = {
    "cuda_toolkit-13.0.2": {},
    "nvidia_cuda_nvcc-13.0.88": {"bin/nvcc": NVCC, "bin/ptxas": "", "include/nvcc.h": ""},
    "nvidia_nvvm-13.0.88": {
        "nvvm/bin/cicc": "",
        "nvvm/libdevice/libdevice.10.bc": "",
        "lib/libnvvm.so.4": "",
    },
    "nvidia_cuda_crt-13.0.88": {"include/crt/host_config.h": ""},
    "nvidia_cuda_cccl-13.0.85": {"include/cccl/cub/cub.cuh": "", "lib/cmake/cub/cub-config.cmake": ""},
    "nvidia_cuda_runtime-13.0.96": {
        "include/cuda.h": HEADER,
        "include/cuda_runtime.h": "",
        "lib/libcudart.so.13": "",
        "lib/libcudart_static.a": "",
    },
    "nvidia_cuda_nvrtc-13.0.88": {
        "include/nvrtc.h": "",
        "lib/libnvrtc.so.13": "",
        "lib/libnvrtc-builtins.so.13.0": "",
    },
    "nvidia_cublas-13.1.0.3": {"include/cublas_v2.h": ""},
    "nvidia_cusparse-12.6.3.3": {"include/cusparse.h": ""},
    "nvidia_cusolver-12.0.4.66": {"include/cusolverDn.h": ""},
    "nvidia_nvjitlink-13.0.88": {"lib/libnvJitLink.so.13": ""},
}
SPEC = ToolkitSpec(
    release="13.0.2",
    nvcc="13.0.88",
    lock=tuple(sorted("==".join(name.replace("_", "-").rsplit("-", 1)) for name in PACKAGES)),
)


class Index:
    """A folder of wheels, and a uv without a memory."""

    def __init__(self, folder: Path) -> None:
        self.links = folder / "links"
        self.links.mkdir()
        self.indexes = Indexes(no_index=True, find_links=(str(self.links),))
        self.environ = {k: os.environ[k] for k in ("PATH", "HOME")} | {"UV_CACHE_DIR": str(folder / "uv")}
        for name, files in PACKAGES.items():
            self.wheel(name, files)

    def wheel(self, name: str, files: dict[str, str]) -> None:
        info = f"{name}.dist-info"
        project, version = name.split("-")
        with zipfile.ZipFile(self.links / f"{name}-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                entry = zipfile.ZipInfo(f"nvidia/cu13/{path}")
                entry.external_attr = 0o100755 << 16
                wheel.writestr(entry, text)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_whole_toolkit(index: Index, tmp_path: Path) -> None:
    made = assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes)
    home = Path(made.home)
    assert (made.version, made.spec) == ("13.0", SPEC)
    assert home == toolkit_home(SPEC, tmp_path / "toolkits")
    for folder in ("bin", "include", "nvvm", "lib64"):
        assert (home / folder).is_dir()
        assert not (home / folder).is_symlink()
    for name in ("libcudart.so", "libnvrtc.so", "libnvrtc-builtins.so", "libnvvm.so", "libnvJitLink.so"):
        assert (home / "lib64" / name).exists(), name
        assert (home / "lib" / name).exists(), name
    assert (home / "bin" / "nvcc").resolve().parent.parent == home.resolve()
    said = subprocess.run(
        ["readelf", "-dW", "--dyn-syms", str(home / "lib64" / "stubs" / "libcuda.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "[libcuda.so.1]" in said
    assert "cuTensorMapEncodeTiled" in said
    assert _left(tmp_path / "toolkits") == [home.name]


def test_it_is_reused_without_any_index(index: Index, tmp_path: Path) -> None:
    told: list[Event] = []
    first = assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes, emit=told.append)
    assert not [e for e in told if isinstance(e, Measured)]
    nowhere = Indexes(no_index=True)
    again = assemble(SPEC, tmp_path / "toolkits", {"PATH": ""}, nowhere, offline=True, emit=told.append)
    assert again == first
    assert [e.values["what"] for e in told if isinstance(e, Measured)] == ["CUDA toolkit"]


def test_what_a_killed_one_left_behind_is_swept_away(index: Index, tmp_path: Path) -> None:
    home = toolkit_home(SPEC, tmp_path / "toolkits")
    for half in (home, home.with_name(f".{home.name}.making")):
        (half / "bin").mkdir(parents=True)
        (half / "bin" / "leftover").touch()
    assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes)
    assert not (home / "bin" / "leftover").exists()
    assert _left(home.parent) == [home.name]


@pytest.mark.parametrize(
    ("package", "without", "says"),
    [
        ("nvidia_nvvm-13.0.88", "nvvm/bin/cicc", "nvvm/bin/cicc"),
        ("nvidia_cuda_runtime-13.0.96", "include/cuda_runtime.h", "cuda_runtime.h"),
        ("nvidia_cuda_runtime-13.0.96", "lib/libcudart.so.13", "libcudart.so"),
    ],
)
def test_packages_that_lack_a_part_leave_nothing(
    index: Index, tmp_path: Path, package: str, without: str, says: str
) -> None:
    index.wheel(package, {k: v for k, v in PACKAGES[package].items() if k != without})
    with pytest.raises(InstallError) as caught:
        assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes)
    assert says in caught.value.why
    assert not toolkit_home(SPEC, tmp_path / "toolkits").exists()


def test_an_nvcc_that_is_not_the_one_that_was_locked(index: Index, tmp_path: Path) -> None:
    other = PACKAGES["nvidia_cuda_nvcc-13.0.88"] | {"bin/nvcc": NVCC.replace("13.0.88", "13.0.48")}
    index.wheel("nvidia_cuda_nvcc-13.0.88", other)
    with pytest.raises(InstallError) as caught:
        assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes)
    assert "13.0.88" in caught.value.why
    assert not toolkit_home(SPEC, tmp_path / "toolkits").exists()


def test_offline_names_every_package_that_is_missing(index: Index, tmp_path: Path) -> None:
    for name in ("nvidia_nvvm", "nvidia_nvjitlink"):
        next(index.links.glob(f"{name}-*")).unlink()
    with pytest.raises(OfflineMissing) as caught:
        assemble(SPEC, tmp_path / "toolkits", index.environ, index.indexes, offline=True)
    assert caught.value.details == ("nvidia-nvjitlink==13.0.88", "nvidia-nvvm==13.0.88")
    assert _left(tmp_path / "toolkits") == []


def test_without_a_compiler_nothing_is_fetched(index: Index, tmp_path: Path) -> None:
    with pytest.raises(CompilerMissing):
        assemble(SPEC, tmp_path / "toolkits", index.environ | {"PATH": "/nonexistent"}, index.indexes)
    assert _left(tmp_path / "toolkits") == []


def test_a_lock_of_mixed_releases_is_refused(index: Index, tmp_path: Path) -> None:
    mixed = tuple(line.replace("nvvm==13.0.88", "nvvm==13.5.37") for line in SPEC.lock)
    with pytest.raises(ResolutionError):
        assemble(SPEC.model_copy(update={"lock": mixed}), tmp_path / "toolkits", index.environ, index.indexes)
