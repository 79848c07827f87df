"""Locking a toolkit that is put together from a package index: all parts of one CUDA release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import ResolutionError
from vllm_builder.events import Emit, ignore
from vllm_builder.indexes import Indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.lock import locked_version, resolve_lock
from vllm_builder.stages.environment.model import Interpreter
from vllm_builder.stages.toolkit.model import ToolkitSpec

EXTRAS = (
    "cccl",
    "crt",
    "cublas",
    "cudart",
    "curand",
    "cusolver",
    "cusparse",
    "nvcc",
    "nvjitlink",
    "nvrtc",
    "nvtx",
    "profiler",
)
"""The parts of the package ``cuda-toolkit`` that torch's CMake package and vLLM's CMake files ask for."""

_EXACTLY_NVCCS = ("nvidia-nvvm", "nvidia-cuda-crt")
"""nvcc starts nvvm's cicc and includes crt's headers: they are parts of one compiler."""
_SAME_RELEASE = ("nvidia-cuda-cccl", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-nvjitlink")
"""They have versions of their own within a CUDA release, ``13.0.x``."""


def lock_toolkit(
    release: str,
    interpreter: Interpreter,
    indexes: Indexes,
    *,
    environ: Mapping[str, str],
    memo: Memo,
    offline: bool = False,
    refresh: bool = False,
    emit: Emit = ignore,
) -> ToolkitSpec:
    """Resolve a CUDA release (``13.0.2``) to exact packages that belong together.

    Nothing but nvcc's own package names the versions of its parts, and not all of them: a newer nvvm would be
    taken, whose cicc is another compiler's.

    Raises:
        ResolutionError: the index has no such release, or no parts of it that belong together.
        OfflineMissing
    """

    def resolve(further: Sequence[str]) -> tuple[str, ...]:
        wanted = [f"cuda-toolkit[{','.join(EXTRAS)}]=={release}", *further]
        return resolve_lock(
            wanted,
            interpreter,
            indexes,
            environ=environ,
            memo=memo,
            offline=offline,
            refresh=refresh,
            emit=emit,
        )

    lock = resolve(())
    nvcc = locked_version(lock, "nvidia-cuda-nvcc")
    if nvcc is None:
        raise ResolutionError(
            f"cuda-toolkit {release} of this index brings no nvcc.",
            why=f"Index: {indexes.describe()}; it resolves to {', '.join(lock)}.",
            next="Choose another index, or a toolkit of the machine with --cuda-home.",
        )
    others = [f"{name}=={nvcc}" for name in _EXACTLY_NVCCS if locked_version(lock, name) != nvcc]
    if others:
        lock = resolve(others)
    spec = ToolkitSpec(release=release, nvcc=nvcc, lock=lock)
    check_lock(spec)
    return spec


def check_lock(spec: ToolkitSpec) -> None:
    """All parts of a locked toolkit must be of one release.

    Raises:
        ResolutionError: names each part that is not.
    """
    wrong = [
        f"{name} is {found or 'absent'}, and must be nvcc's own {spec.nvcc}"
        for name in ("nvidia-cuda-nvcc", *_EXACTLY_NVCCS)
        if (found := locked_version(spec.lock, name)) != spec.nvcc
    ]
    minor = _minor(spec.nvcc)
    for name in _SAME_RELEASE:
        found = locked_version(spec.lock, name)
        if found is None or _minor(found) != minor:
            wrong.append(f"{name} is {found or 'absent'}, and must be of CUDA {minor}")
    if wrong:
        raise ResolutionError(
            f"The packages of CUDA {spec.release} do not make one toolkit.",
            why=wrong[0] + ".",
            next="Check which versions the index offers, or use a toolkit of the machine with --cuda-home.",
            details=wrong,
        )


def _minor(version: str) -> str:
    try:
        parsed = Version(version)
    except InvalidVersion:
        return version
    return f"{parsed.major}.{parsed.minor}"
