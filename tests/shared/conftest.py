"""Builders that share a cache: each has a cache folder and a workspace of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Team
from faulty_server import FaultyServer, faulty_server

from vllm_builder.shared import remote
from vllm_builder.stages.environment.model import Environment, EnvironmentSpec


@pytest.fixture(scope="session")
def _prepared(environment: Environment) -> Iterator[None]:
    """The build environment of all builders holds cmake, ninja, ccache and setuptools."""

    def prepare(spec: EnvironmentSpec, folder: Path, **more: Any) -> Environment:
        del spec, folder, more
        return environment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_builder.stages.environment.prepare", prepare)
        yield


@pytest.fixture
def team(tmp_path: Path, _prepared: None, cxx: str) -> Team:
    return Team(tmp_path / "toy", cxx)


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``impatient(0.3)``: the seconds that any request may take."""

    def set_(seconds: float) -> None:
        limits = {k: remote.Limits(seconds, v.size, v.small) for k, v in remote.LIMITS.items()}
        monkeypatch.setattr(remote, "LIMITS", limits)
        monkeypatch.setattr(remote, "_WRITE_SECONDS", seconds)

    return set_
