"""What the native build read of the tree, as ninja remembers it: the proof that the digest covers it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from vllm_builder.stages.native.inputs import is_external

_CMAKES_OWN = re.compile(r"^build build\.ninja\b.*", re.MULTILINE)
_WORD = re.compile(r"(?:\$.|[^\s$|:])+")


class Unreadable(Exception):
    """ninja does not say what it read."""


def read_besides(
    tree: Path, ninja: str, listed: Mapping[str, str], inputs: Collection[str]
) -> tuple[str, ...]:
    """Files of the tree that compilers and CMake read, and that are not among the inputs.

    Args:
        tree: the tree after its build, which is under ``build/temp*``.
        ninja: the program.
        listed: the files that the tree was made of; others were made by the build itself.
        inputs: paths that the digest covers, besides the external sources.

    Raises:
        Unreadable
    """
    folders = [path.parent for path in (tree / "build").glob("temp*/build.ninja")]
    if len(folders) != 1:
        raise Unreadable(f"there are {len(folders)} build folders")
    tree = tree.resolve()
    found = set()
    for word in _read(folders[0].resolve(), ninja):
        path = os.path.normpath(folders[0].resolve() / word)
        if path.startswith(f"{tree}{os.sep}"):
            found.add(os.path.relpath(path, tree))
    return tuple(
        sorted(path for path in found if path in listed and path not in inputs and not is_external(path))
    )


def _read(folder: Path, ninja: str) -> Iterator[str]:
    run = subprocess.run(
        [ninja, "-t", "deps"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    if run.returncode != 0:
        raise Unreadable(f"ninja -t deps: {run.stderr.strip()[:200]}")
    seen = set()
    for line in run.stdout.splitlines():
        if line.startswith("    ") and line not in seen:
            seen.add(line)
            yield line.strip()
    text = (folder / "build.ninja").read_text(encoding="utf-8", errors="surrogateescape")
    rules = _CMAKES_OWN.findall(text)
    if not rules:
        raise Unreadable("build.ninja does not say what CMake read")
    for rule in rules:
        for word in _WORD.findall(rule):
            yield re.sub(r"\$(.)", r"\1", word)
