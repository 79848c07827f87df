"""Small repositories with submodules, and trees that fetch them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_builder.stages.vendor.discovery import discover
from vllm_builder.stages.vendor.model import External


class Repository:
    """A work tree with commits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *arguments: str) -> str:
        environment = {
            **os.environ,
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "n"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "n@example.org"),
            **dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "1600000000 +0000"),
        }
        command = ["git", "-C", str(self.path), "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        ).stdout.strip()

    def commit(self, files: Mapping[str, str | bytes]) -> str:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self("add", "--all")
        self("commit", "--quiet", "--allow-empty", "--message", "files")
        return self("rev-parse", "HEAD")

    def submodule(self, other: Repository, path: str, url: str) -> str:
        """Add a submodule under the URL that its .gitmodules is to name."""
        self("submodule", "--quiet", "add", str(other.path), path)
        self("config", "--file", ".gitmodules", f"submodule.{path}.url", url)
        return self.commit({})


def release(folder: Path, files: Mapping[str, str]) -> Path:
    """A tree with CMake files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def found(folder: Path, text: str, device: str = "cuda", **more: object) -> dict[str, External]:
    """What a CMakeLists.txt fetches, by name and revision."""
    tree = release(folder, {"CMakeLists.txt": text})
    externals = discover(tree, device=device, machine="x86_64", **more)  # type: ignore[arg-type]
    return {f"{one.name} {one.revision}": one for one in externals}
