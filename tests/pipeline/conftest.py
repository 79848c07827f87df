"""Fixtures of the pipeline's tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline_helpers import Toy

from vllm_builder.stages.environment.model import Environment, EnvironmentSpec


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy release whose build environment is the Python of the tests."""

    def prepare(spec: EnvironmentSpec, folder: Path, **more: Any) -> Environment:
        del spec, folder, more
        return Environment(python=Path(sys.executable), bin=Path(sys.executable).parent, packages={})

    monkeypatch.setattr("vllm_builder.stages.environment.prepare", prepare)
    return Toy(tmp_path)
