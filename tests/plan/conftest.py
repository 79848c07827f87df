"""Fixtures of the plan's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_machine import Machine

from vllm_builder.stages.toolkit import finding


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(finding, "_USUAL", (f"{str(tmp_path).lstrip('/')}/cuda-*",))
    return Machine(tmp_path)
