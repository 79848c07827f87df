"""The Rust part of newer releases: declared in setup.py, optional, and dropped without a word."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Left = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class RustPart:
    """One RustExtension as it is declared. ``executable`` is True for a program instead of a module."""

    target: str
    executable: bool
    stable_abi: bool


def rust_parts(tree: Path) -> tuple[RustPart, ...]:
    """The RustExtension calls of a release, read from the syntax of setup.py and tools/build_rust.py."""
    found = []
    for name in ("setup.py", "tools/build_rust.py"):
        try:
            module = ast.parse((tree / name).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(module):
            if not (isinstance(node, ast.Call) and _called(node) == "RustExtension"):
                continue
            keywords = {k.arg: k.value for k in node.keywords if k.arg}
            target = keywords.get("target", node.args[0] if node.args else None)
            if not (isinstance(target, ast.Constant) and isinstance(target.value, str)):
                continue
            text = " ".join(ast.unparse(k) for k in keywords.values())
            found.append(
                RustPart(
                    target=target.value,
                    executable="Binding.Exec" in text,
                    stable_abi="abi3" in text or _is_true(keywords.get("py_limited_api")),
                )
            )
    return tuple(found)


def rust_tools(tree: Path, environ: Mapping[str, str]) -> str | None:
    """The Rust that would build a release's Rust part, as cargo calls itself; None where there is none.

    Asked in the tree's folder, so that rustup answers for the toolchain that the release names; nothing is
    installed.
    """
    cargo = shutil.which("cargo", path=environ.get("PATH"))
    if cargo is None:
        return None
    env = {**environ, "RUSTUP_AUTO_INSTALL": "0"}
    try:
        run = subprocess.run(
            [cargo, "--version"], cwd=tree, env=env, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def rust_left_out(tree: Path, members: frozenset[str], said: tuple[Left, ...]) -> tuple[Left, ...]:
    """Add the Rust parts that are declared and not in the wheel to what the log said was left out."""
    missing = []
    for part in rust_parts(tree):
        path = part.target.replace(".", "/")
        if any(m == path or m.startswith(f"{path}.") for m in members):
            continue
        missing.append(part.target)
    general = [s for s in said if s[0] == "Rust extensions"]
    named = {s[0] for s in said}
    rest = [s for s in said if s not in general]
    reason = general[0][1] if general else "setup.py did not build it and did not say why; see the log"
    return (*rest, *((target, reason, "warning") for target in missing if target not in named))


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
