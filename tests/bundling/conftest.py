from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundling_helpers import Machine, Origin


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GIT_", "PIP_", "UV_", "VLLM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small release for CPU; do not change it."""
    before = Path.cwd()
    machine = Origin(tmp_path_factory.mktemp("ready") / "origin", os.chdir)
    try:
        return machine.bundle(source=str(machine.sdist()), device="cpu").path
    finally:
        os.chdir(before)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    return Origin(tmp_path / "origin", monkeypatch.chdir)


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "closed", monkeypatch.chdir)
