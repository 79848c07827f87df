"""Shared libraries of wheels on the package index."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from vllm_builder.indexes import read_indexes
from vllm_builder.stages.environment.uv import run_uv


def cache_folder() -> Path:
    chosen = os.environ.get("VLLM_BUILDER_TEST_CACHE")
    return Path(chosen) if chosen else user_cache_path("vllm-builder-tests")


def libraries(requirement: str, cache: Path) -> list[Path]:
    """The shared libraries of a wheel for Linux on x86_64, downloaded and unpacked once.

    Args:
        requirement: ``vllm==0.9.2``.
    """
    folder = cache / "libraries" / requirement.replace("==", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as fresh:
                _install(requirement, Path(fresh, "all"))
                for path in _shared(Path(fresh, "all")):
                    kept = Path(fresh, "kept", path.relative_to(Path(fresh, "all")))
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(kept)
                shutil.move(Path(fresh, "kept"), folder)
    return _shared(folder)


def _shared(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.so*") if path.is_file())


def _install(requirement: str, target: Path) -> None:
    command = ["pip", "install", "--no-deps", "--no-cache", "--only-binary", ":all:", "--target", str(target)]
    command += ["--python", sys.executable, "--python-platform", "x86_64-manylinux_2_28", requirement]
    done = run_uv(command, environ=os.environ, indexes=read_indexes())
    assert done.returncode == 0, done.stderr
