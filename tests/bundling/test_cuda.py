"""Bundles for CUDA: the toolkit's packages are in them, or the toolkit is the machine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundling_helpers import Machine, Origin, manifest_of, write_files, write_wheel
from toolkit_helpers import TOOLKIT_PARTS

from vllm_builder.errors import BundleError, CompilerMissing, ContradictionError
from vllm_builder.stages.toolkit import finding
from vllm_builder.stages.toolkit.lock import EXTRAS

CMAKE = """
set(CUDA_SUPPORTED_ARCHS "8.0;9.0;10.0;12.0")
cuda_archs_loose_intersection(CUDA_ARCHS "${CUDA_SUPPORTED_ARCHS}" "${CUDA_ARCHS}")
define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)
"""
NVCC = '#!/bin/sh\ntest "$*" = --version || exit 1\necho "release {0}, V{0}.88"\n'


def _toolkit(folder: Path, version: str) -> Path:
    names = ("include/cuda.h", "include/cuda_runtime.h", "lib64/libcudart.so", *TOOLKIT_PARTS)
    write_files(folder, {**dict.fromkeys(names, ""), "bin/nvcc": NVCC.format(version)})
    (folder / "bin" / "nvcc").chmod(0o755)
    return folder


@pytest.fixture
def cuda(origin: Origin, closed: Machine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What to bundle, of an index with torch for CUDA 13; a host compiler that goes with it."""
    monkeypatch.setattr(finding, "_USUAL", ())
    write_wheel(origin.links, "nvidia_cuda_runtime", "13.0.96")
    write_wheel(origin.links, "torch", "2.11.0", "py3-none-any", "nvidia-cuda-runtime==13.0.96")
    gcc = origin.folder.parent / "cc"
    gcc.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-dM*) printf "#define __GNUC__ 12\\n#define __GNUC_MINOR__ 2\\n"'
        '; printf "#define __GNUC_PATCHLEVEL__ 0\\n";; esac\n'
        'echo "Target: x86_64-linux-gnu" >&2\n'
    )
    gcc.chmod(0o755)
    for machine in (origin, closed):
        machine.environ |= {"CC": str(gcc), "CXX": str(gcc), "PATH": "/usr/bin:/bin"}
    source = origin.sdist({"CMakeLists.txt": CMAKE})
    return {"source": str(source), "arch": ("sm_100",), "torch": "2.11.0"}


def test_a_toolkit_from_packages_comes_along(origin: Origin, closed: Machine, cuda: dict[str, Any]) -> None:
    names = {"nvcc": "cuda_nvcc", "crt": "cuda_crt", "nvrtc": "cuda_nvrtc", "cccl": "cuda_cccl"}
    requires = ['nvidia-cuda-runtime==13.0.96; extra == "cudart"']
    for extra in set(EXTRAS) - {"cudart"}:
        package = f"nvidia_{names.get(extra, extra)}"
        write_wheel(origin.links, package, "13.0.88")
        requires.append(f'{package.replace("_", "-")}==13.0.88; extra == "{extra}"')
    write_wheel(origin.links, "nvidia_nvvm", "13.0.88")
    requires.append('nvidia-nvvm==13.0.88; extra == "nvcc"')
    write_wheel(origin.links, "cuda_toolkit", "13.0.2", "py3-none-any", *requires)
    made = origin.bundle(cuda="pypi", **cuda)
    manifest = manifest_of(made.path)
    assert manifest["toolkit_from"] == "bundle"
    listed = [one["path"] for one in manifest["files"]]
    assert "wheels/nvidia_nvvm-13.0.88-py3-none-any.whl" in listed
    # A toolkit that this machine has is not the one of the plan.
    closed.environ["CUDA_HOME"] = str(_toolkit(closed.folder / "cuda", "12.8"))
    plan = closed.plan(bundle=made.path)
    assert plan.digest == made.digest
    assert plan.toolkit is not None
    assert Path(plan.toolkit.home).is_relative_to(closed.folder)
    with pytest.raises(ContradictionError, match="bundle"):
        closed.plan(bundle=made.path, cuda="system")
    assert closed.plan("v0.9.2", bundle=made.path, arch=("10.0",), cuda="pypi").digest == made.digest


def test_a_toolkit_of_the_machine_stays_there(origin: Origin, closed: Machine, cuda: dict[str, Any]) -> None:
    home = _toolkit(origin.folder / "cuda", "13.0")
    made = origin.bundle(cuda_home=home, **cuda)
    assert any("CUDA toolkit 13.0" in need for need in made.needs)
    with pytest.raises(CompilerMissing):
        closed.plan(bundle=made.path)
    there = _toolkit(closed.folder / "opt" / "cuda", "13.0")
    assert closed.plan(bundle=made.path, cuda_home=there).digest == made.digest
    closed.environ["CUDA_HOME"] = str(there)
    assert closed.plan(bundle=made.path).digest == made.digest
    closed.environ["CUDA_HOME"] = str(_toolkit(closed.folder / "opt" / "newer", "13.1"))
    with pytest.raises(BundleError) as caught:
        closed.plan(bundle=made.path)
    assert any("toolkit.version: 13.1 here, 13.0 in the bundle" in line for line in caught.value.details)
