"""A small vLLM-like tree, as sdist, as repository, and a server that lists and serves it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from vllm_builder.events import Event, Note


class Heard(list[Event]):
    """Collects events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def notes(self) -> str:
        return "\n".join(event.message for event in self if isinstance(event, Note))


def tree_files(version: str, *, pkg_info: bool = True) -> dict[str, bytes]:
    files = {
        "setup.py": b"# setup\n",
        "pyproject.toml": b"[build-system]\nrequires = ['torch == 2.7.0']\n",
        "requirements/build.txt": b"torch==2.7.0\n",
        "requirements/deep/more.txt": b"x\n",
        "cmake/utils.cmake": b"set(A 1)\n",
        "vllm/__init__.py": b"",
        "vllm/envs.py": f"version = {version!r}\n".encode(),
        "csrc/kernel.cu": b"__global__ void k() {}\n" * 100,
        "tools/run.sh": b"#!/bin/sh\n",
    }
    if pkg_info:
        files["PKG-INFO"] = f"Metadata-Version: 2.4\nName: vllm\nVersion: {version}\n\nText\n".encode()
    return files


def make_sdist(folder: Path, version: str, *, inside: str | None = None, pkg_info: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"vllm-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in tree_files(inside or version, pkg_info=pkg_info).items():
            info = tarfile.TarInfo(f"vllm-{version}/{name}")
            info.size, info.mtime = len(data), 1_700_000_000
            info.mode = 0o4755 if name.endswith(".sh") else 0o600
            tar.addfile(info, io.BytesIO(data))
    return path


def write_tree(folder: Path, version: str, *, pkg_info: bool = True) -> Path:
    for name, data in tree_files(version, pkg_info=pkg_info).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "tools/run.sh").chmod(0o755)
    return folder


# git --------------------------------------------------------------------------------------------
class Repository:
    """A work tree with history."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.clock = 1_600_000_000
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *arguments: str) -> str:
        when = f"{self.clock} +0000"
        environment = {
            **os.environ,
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "n"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "n@example.org"),
            "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_DATE": when,
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, text: str = "", **files: str) -> str:
        self.clock += 60
        (self.path / "changes.txt").write_text(f"{self.clock} {text}\n")
        self("add", "--all")
        self("commit", "--quiet", "-m", text or "change")
        return self("rev-parse", "HEAD")


# HTTP -------------------------------------------------------------------------------------------
@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    type: str = "application/octet-stream"
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    ranges: bool = True


@dataclass
class Server:
    """Answers each path from its queue of replies; the last one stays."""

    url: str = ""
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def add(self, path: str, *replies: Reply) -> str:
        self.replies[path] = list(replies)
        return self.url + path

    def asked(self, path: str) -> int:
        return sum(1 for one, _ in self.seen if one == path)

    def html_index(self, *sdists: Path, where: str = "/simple", digests: dict[str, str] | None = None) -> str:
        """Serve an HTML index with these files; return the index's URL."""
        links = []
        for path in sdists:
            data = path.read_bytes()
            digest = (digests or {}).get(path.name, hashlib.sha256(data).hexdigest())
            fragment = f"#sha256={digest}" if digest else ""
            links.append(f'<a href="../../files/{path.name}{fragment}">{path.name}</a>')
            self.add(f"/files/{path.name}", Reply(data))
        page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        self.add(f"{where}/vllm/", Reply(page, type="text/html"))
        return self.url + where

    def json_index(self, files: list[dict[str, object]], where: str = "/json") -> str:
        page = {"meta": {"api-version": "1.1"}, "name": "vllm", "versions": [], "files": files}
        self.add(
            f"{where}/vllm/",
            Reply(json.dumps(page).encode(), type="application/vnd.pypi.simple.v1+json"),
        )
        return self.url + where
