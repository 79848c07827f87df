"""The checks. Each takes the subject and gives findings; none of them changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from vllm_builder.stages.verify.checks import (
    against,
    extensions,
    leftovers,
    metadata,
    python_abi,
    symbols,
    torch_side,
)
from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.subject import Subject

Check = Callable[[Subject], Iterable[Finding]]

CHECKS: Final[Mapping[str, Check]] = {
    "readable": extensions.unreadable_members,
    "extensions": extensions.missing_extensions,
    "architectures": extensions.missing_archs,
    "kernels": extensions.answers,
    "libraries of torch": symbols.missing_libraries,
    "symbols": symbols.undefined_symbols,
    "stable ABI of torch": torch_side.stable_torch,
    "CUDA runtime": torch_side.cuda_runtime,
    "stable ABI of Python": python_abi.stable_abi,
    "requirements": metadata.requirements,
    "name and version": metadata.identity,
    "tags and platform": metadata.tags,
    "RECORD": metadata.record,
    "RPATH": leftovers.rpaths,
    "build paths": leftovers.source_paths,
    "debug info": leftovers.debug_info,
    "stray files": leftovers.stray_files,
    "executable bits": leftovers.executable_bits,
    "size": leftovers.size,
    "against": against.losses,
}
"""What is said of a check -> the check."""
OF_LIBRARIES: Final = frozenset(
    {
        "readable", "extensions", "architectures", "kernels", "libraries of torch", "symbols", "stable ABI of torch",
        "CUDA runtime", "stable ABI of Python", "RPATH", "build paths", "debug info",
    }
)  # fmt: skip
"""Checks that say nothing where the libraries are of another system than Linux."""
