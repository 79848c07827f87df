"""A cache for each pass of nvcc: whether a build has it, putting it behind ccache, and what it answered."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from vllm_builder.errors import ContradictionError
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.stages.compile.model import CompileSpec

LIMIT = 10 << 30
"""Bytes that are kept; the least recently used go first."""
_NAME = "vllm-builder-passes"
_LOG = "passes.jsonl"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("nvcc-passes.toml").read_text())


def choose(choice: str, nvcc: str | None) -> tuple[bool, str]:
    """Whether nvcc is driven pass by pass, and why.

    Args:
        choice: the setting, ``auto``, ``split`` or another.
        nvcc: its version (13.0); None where no CUDA is compiled.

    Raises:
        ContradictionError: it was asked for and cannot be.
    """
    known = _table()["passes"]["nvcc"]
    fits = nvcc is not None and SpecifierSet(known).contains(nvcc)
    if choice == "split" and not fits:
        raise ContradictionError(
            f"There are no passes of nvcc {nvcc} to cache." if nvcc else "A build without CUDA has no nvcc.",
            why=f"--compiler-cache split is for nvcc {known}.",
            next="Choose --compiler-cache ccache, or leave it out.",
        )
    if choice not in ("auto", "split"):
        return False, "nvcc as a whole was asked for"
    return fits, f"nvcc {nvcc} is in {known}" if fits else f"nvcc {nvcc} is not in {known}: as a whole"


def check_sccache(nvcc: str, version: str | None) -> None:
    """Make sure that an sccache understands an nvcc.

    Args:
        version: of the sccache that is locked; None where the machine's own is used, of which nothing is known.

    Raises:
        ContradictionError
    """
    for row in _table()["sccache"]:
        if (
            version
            and SpecifierSet(row["nvcc"]).contains(nvcc)
            and version not in SpecifierSet(row["sccache"])
        ):
            raise ContradictionError(
                f"sccache {version} does not understand nvcc {nvcc}.",
                why=f"nvcc {row['nvcc']} needs sccache {row['sccache']}.",
                next="Leave out --compiler-cache sccache, or put a newer sccache on PATH.",
            )


def split(spec: CompileSpec, env: dict[str, str], *, tree: Path, state: Path) -> None:
    """Change ``env`` so that ccache calls compilers through :mod:`~vllm_builder.stages.compile.passes`.

    A CCACHE_PREFIX of the person's own stays, and nvcc is then called as a whole.
    """
    if env.setdefault("CCACHE_PREFIX", _NAME) != _NAME:
        return
    folder = make_dir(state / "bin")
    script = folder / _NAME
    main = Path(__file__).parent / "passes" / "__main__.py"
    command = shlex.join([sys.executable, "-I", "-S", "-B", str(main)])
    with os_errors(f"writing {script}"):
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    if str(folder) not in env["PATH"].split(os.pathsep):
        env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"
    log = state / _LOG
    with os_errors(f"writing {log}"):
        log.unlink(missing_ok=True)
    env["VLLM_BUILDER_PASSES"] = str(make_dir(Path(spec.passes_dir)))
    env["VLLM_BUILDER_PASSES_TREE"] = str(tree.resolve())
    env["VLLM_BUILDER_PASSES_LOG"] = str(log)


def prefix_of_others(env: Mapping[str, str]) -> str:
    """What stands between ccache and compilers in our place, after :func:`split`; empty where nothing does."""
    found = env.get("CCACHE_PREFIX", _NAME)
    return "" if found == _NAME else found


def answers(state: Path) -> tuple[dict[str, int], str]:
    """What the passes of this build were: taken, made, and calls of nvcc as a whole that were not split.

    Returns:
        The counts, and the most frequent reason of the last; empty where there is none.
    """
    counts = {"passes_hits": 0, "passes_misses": 0, "not_split": 0}
    reasons: Counter[str] = Counter()
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (state / _LOG).read_text("utf-8", "replace").splitlines()
    for line in lines:
        # A full disk may cut a line short.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            call = json.loads(line)
            counts["passes_hits"] += call["hits"]
            counts["passes_misses"] += call["misses"]
            reasons.update([call["left"]] if call["left"] else [])
    counts["not_split"] = reasons.total()
    return counts, reasons.most_common(1)[0][0] if reasons else ""


def trim(folder: Path, limit: int = LIMIT) -> int:
    """Remove what was not used for longest until ``limit`` bytes are left; returns the bytes that were removed."""
    found = []
    for path in folder.glob("??/*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    removed = 0
    for _, size, path in sorted(found):
        if total - removed <= limit:
            break
        # Another build may remove the same, or take it: then it makes it anew.
        with contextlib.suppress(OSError):
            path.unlink()
        removed += size
    return removed
