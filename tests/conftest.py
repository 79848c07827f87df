"""Fixtures that several stages share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# Started in the background by a shell, tests would hand down that Ctrl-C is ignored, and some send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sdist() -> Callable[[str], Path]:
    """``sdist("0.9.2")``: the real source distribution, fetched once into a cache that outlives the tests.

    The folder is VLLM_BUILDER_TEST_CACHE, or the platform's user cache; archives that already lie in it under
    their own names are taken as they are.
    """
    from platformdirs import user_cache_path

    from vllm_builder.cache import Cache
    from vllm_builder.events import ignore
    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.source.download import download
    from vllm_builder.stages.source.http import Http
    from vllm_builder.stages.source.listing import releases
    from vllm_builder.stages.source.model import ReleaseFile

    # Read once: single tests change HOME and the variables that all this depends on.
    chosen = os.environ.get("VLLM_BUILDER_TEST_CACHE")
    folder = Path(chosen) if chosen else user_cache_path("vllm-builder-tests")
    indexes = read_indexes()
    listed: list[ReleaseFile] = []

    def get(version: str) -> Path:
        name = f"vllm-{version}.tar.gz"
        for known in (folder / name, *folder.glob(f"downloads/sha256/*/{name}")):
            if known.is_file():
                return known
        cache = Cache(folder)
        listed.extend(() if listed else releases(indexes, cache))
        file = next(f for f in listed if f.filename == name)
        with Http(indexes) as http:
            return download(file.url, file.filename, cache, ignore, http, sha256=file.sha256)[0]

    return get


@pytest.fixture(scope="session")
def cmake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cmake: the one on PATH, else one from the package index."""
    import shutil
    import sys

    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.environment.uv import run_uv

    if found := shutil.which("cmake"):
        return Path(found)
    folder = tmp_path_factory.mktemp("cmake")
    command = ["pip", "install", "--python", sys.executable, "--target", str(folder), "cmake"]
    run_uv(command, environ=os.environ, indexes=read_indexes()).check_returncode()
    return folder / "cmake" / "data" / "bin" / "cmake"
