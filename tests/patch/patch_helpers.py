"""Small ways to write trees and patch sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_builder.stages.patch import PatchReport, PatchSelection, PatchSet, apply, select


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def contents(root: Path, *, own: bool = False) -> dict[str, bytes]:
    """All files; the patch stage's own ones only with ``own``."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (own or not path.name.startswith(".vllm-builder-"))
    }


def selection(*operations: Mapping[str, Any], **facts: str | bool) -> PatchSelection:
    """A selection of one set ``test`` with these operations."""
    patch_set = PatchSet.model_validate(
        {"name": "test", "description": "for a test", "operation": [dict(item) for item in operations]}
    )
    return select({"test": patch_set}, release="0.9.2", device="cpu", facts=facts)


def run(tree: Path, *operations: Mapping[str, Any], check: bool = False) -> PatchReport:
    return apply(selection(*operations), tree, check=check)
