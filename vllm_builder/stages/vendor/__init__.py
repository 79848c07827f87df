"""External sources: what a release's CMake code fetches, locked and put into the tree.

``discover`` reads the CMake files, ``lock`` finds out what the externals exactly are, ``fetch_externals`` puts
them into a tree, and the operations of ``patch_steps`` let CMake take them from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.vendor.discovery import cmake_files, discover
    from vllm_builder.stages.vendor.locking import check, lock, read_lock, write_lock
    from vllm_builder.stages.vendor.model import External, ExternalSource, Lock, Sources
    from vllm_builder.stages.vendor.placing import fetch_externals, patch_steps

_HOMES = {
    "cmake_files": "discovery",
    "discover": "discovery",
    "check": "locking",
    "lock": "locking",
    "read_lock": "locking",
    "write_lock": "locking",
    "fetch_externals": "placing",
    "patch_steps": "placing",
    "External": "model",
    "ExternalSource": "model",
    "Lock": "model",
    "Sources": "model",
}

__all__ = [
    "External",
    "ExternalSource",
    "Lock",
    "Sources",
    "check",
    "cmake_files",
    "discover",
    "fetch_externals",
    "lock",
    "patch_steps",
    "read_lock",
    "write_lock",
]


__getattr__ = exports(__name__, _HOMES)
