"""Which files of a release patches read, so that a plan has to unpack no more than these."""

from __future__ import annotations

from typing import Final

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
    "csrc/cpu/utils.cpp",
    "csrc/cpu/cpu_types_x86.hpp",
)
"""Glob patterns relative to the tree's root; ``*`` stays within one folder, ``**`` crosses folders.

Pre-installed sets need nothing else. A set of the user's own that edits other files asks for them
with its paths: see :func:`patterns_of`.
"""
