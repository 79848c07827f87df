"""Fixtures of the vendor stage's tests: repositories with nested submodules, an isolated machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vendor_helpers import Repository, release
from vendor_upstream import CMAKE, Upstream

from vllm_builder.cache import Cache
from vllm_builder.stages.vendor.model import ExternalSource


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr("vllm_builder.stages.vendor.mirrors.WAITS", (0.0, 0.0))


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    core = Repository(tmp_path / "upstream/core")
    core.commit({"core.h": "core\n"})
    kit = Repository(tmp_path / "upstream/kit")
    kit.commit(
        {"kit.h": "kit 0.5\n", "big.txt": "the same in all revisions\n" * 1000, "logo.png": b"\x89PNG"}
    )
    kit.commit({"CMakeLists.txt": "include_directories(deep/core/include)\n"})
    kit.submodule(core, "deep/core", "../core.git")
    old = kit("rev-parse", "HEAD")
    for version in ("v1.0", "v2.0"):
        kit.commit({"kit.h": f"kit {version}\n", "run.sh": "#!/bin/sh\n", "crlf.bat": "a\r\n"})
        (kit.path / "run.sh").chmod(0o755)
        kit.commit({".gitattributes": "*.bat text eol=crlf\n"})
        kit("tag", *(["-a", "-m", version] if version == "v1.0" else []), version)
    unused = Repository(tmp_path / "upstream/unused")
    unused.commit({"unused.h": "x\n"})
    attention = Repository(tmp_path / "upstream/attention")
    attention.commit({"CMakeLists.txt": "target_include_directories(x PRIVATE csrc/kit/include)\n"})
    (attention.path / "link").symlink_to("CMakeLists.txt")
    attention("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(kit.path), "csrc/kit")
    attention("-C", "csrc/kit", "checkout", "--quiet", old)
    attention("config", "--file", ".gitmodules", "submodule.csrc/kit.url", "https://git.invalid/KIT")
    attention.submodule(unused, "csrc/unused", "https://git.invalid/unused.git")
    sources = {
        name: ExternalSource(git=str(tmp_path / "upstream" / name)) for name in ("kit", "attention", "core")
    }
    return Upstream(
        release(tmp_path / "tree", {"CMakeLists.txt": CMAKE}),
        kit,
        attention,
        core,
        sources,
        Cache(tmp_path / "c"),
    )
