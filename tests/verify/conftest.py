"""A sound wheel, the machine that it is for, and the command that judges what was made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_helpers import (
    Machine,
    Outcome,
    Sketch,
    Verify,
    machine,
    run,
    sound,
)


@pytest.fixture(scope="session")
def at(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="session")
def wheel(at: Machine) -> Sketch:
    return sound(at)


@pytest.fixture
def verify(
    tmp_path: Path, at: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Verify:
    """Write a sketch and verify it with the made-up torch; or verify a file."""
    monkeypatch.setenv("VLLM_BUILDER_CACHE_DIR", str(tmp_path / "cache"))

    def check(what: Sketch | Path, *options: str, torch: str = "") -> Outcome:
        path = what if isinstance(what, Path) else what.write(tmp_path / "wheels")
        return run(capsys, path, "--torch", torch or str(at.torch), *options)

    return check
