"""Which files of a release patches read, so that a plan has to unpack no more than these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vllm_builder.stages.patch.operations import PatchSet

READ_PATTERNS: Final[tuple[str, ...]] = (
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "PKG-INFO",
    "requirements*.txt",
    "requirements*.in",
    "requirements/**",
    "CMakeLists.txt",
    "cmake/**",
    "use_existing_torch.py",
    "tools/use_existing_torch.py",
    "tools/build_rust.py",
    "rust-toolchain.toml",
    "vllm/envs.py",
)
"""Glob patterns relative to the tree's root; ``*`` stays within one folder, ``**`` crosses folders.

The shipped sets and the plan need nothing else. A set of the person's own may: see :func:`patterns_of`.
"""


def patterns_of(sets: Mapping[str, PatchSet]) -> tuple[str, ...]:
    """:data:`READ_PATTERNS` and all paths that some patch sets name besides."""
    from vllm_builder.stages.patch.operations import paths_of

    named = {
        path
        for patch_set in sets.values()
        for operation in patch_set.operation
        for path in paths_of(operation)
    }
    return (*READ_PATTERNS, *sorted(named - set(READ_PATTERNS)))
