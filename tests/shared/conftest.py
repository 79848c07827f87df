"""Builders that share a cache: each has a cache folder and a workspace of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import UNITS, Built, Team
from faulty_server import FaultyServer, faulty_server

from vllm_builder.shared import remote
from vllm_builder.stages.environment.model import Environment, EnvironmentSpec


@pytest.fixture(scope="session")
def _prepared(environment: Environment) -> Iterator[None]:
    """The build environment of each builder lies in his own cache; it holds cmake, ninja, ccache and a header."""
    real = environment.bin.parent

    def prepare(spec: EnvironmentSpec, folder: Path, **more: Any) -> Environment:
        del spec, more
        root = folder / "abc"
        if not root.exists():
            (root / "include").mkdir(parents=True)
            (root / "include/installed.h").write_text("#define INSTALLED 1\n")
            for name in ("bin", "lib", "pyvenv.cfg"):
                (root / name).symlink_to(real / name)
        return environment.model_copy(update={"python": root / "bin/python", "bin": root / "bin"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_builder.stages.environment.prepare", prepare)
        yield


@pytest.fixture
def team(tmp_path: Path, _prepared: None, cxx: str) -> Team:
    return Team(tmp_path / "toy", cxx)


@pytest.fixture
def fresh(tmp_path: Path, _prepared: None, cxx: str) -> Team:
    """As ``team``, which some files replace."""
    return Team(tmp_path / "fresh", cxx)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, _prepared: None, cxx: str) -> Built:
    """A toy that alice has built: once without a shared cache, and once with one, whose entries are kept."""
    team = Team(tmp_path_factory.mktemp("built") / "toy", cxx)
    with faulty_server() as server:
        # With the same address later: what is made does not depend on it.
        team.build("alice", server.url)
        assert (team.compiled, team.warnings) == (UNITS, [])
        return Built(
            team, dict(server.entries), team.toy.build(team.plan("zoe"), workspace="zoe").wheel.read_bytes()
        )


@pytest.fixture
def later(built: Built) -> Iterator[Team]:
    """The team of ``built``; bob has not built yet."""
    built.team.on_event = lambda event: None
    yield built.team
    for user in ("bob", "carol", "dave"):
        if (built.team.toy.folder / user).exists():
            built.team.forget(user)


@pytest.fixture
def filled(built: Built, faulty: FaultyServer) -> FaultyServer:
    """A server with all that alice's build left."""
    faulty.entries = dict(built.entries)
    return faulty


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
