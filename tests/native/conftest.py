"""Fixtures of the tests of native layers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native_helpers import NativeToy

from vllm_builder.stages.environment.model import Environment, EnvironmentSpec


@pytest.fixture(scope="session")
def _prepared(environment: Environment) -> Iterator[None]:
    """The build environment of all toys holds cmake, ninja and setuptools."""

    def prepare(spec: EnvironmentSpec, folder: Path, **more: Any) -> Environment:
        del spec, folder, more
        return environment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_builder.stages.environment.prepare", prepare)
        yield


@pytest.fixture
def toy(tmp_path: Path, _prepared: None, cxx: str) -> NativeToy:
    """A toy release of which nothing was built yet."""
    return NativeToy(tmp_path, cxx)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, _prepared: None, cxx: str) -> NativeToy:
    """A toy release that was built; not to be written to."""
    toy = NativeToy(tmp_path_factory.mktemp("base"), cxx)
    toy.result = toy.build()
    return toy


@pytest.fixture
def again(tmp_path: Path, base: NativeToy, cxx: str) -> NativeToy:
    """The same toy in a folder of its own, whose cache holds what was built of the other; its compiler was not
    started yet."""
    toy = NativeToy(tmp_path, cxx)
    shutil.copytree(base.cache.root, toy.cache.root)
    toy.result = base.result
    return toy
