"""Fixtures of the plan's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_machine import Machine
from cuda_person import Kit, Person

from vllm_builder.stages.toolkit import finding


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(finding, "_USUAL", (f"{str(tmp_path).lstrip('/')}/cuda-*",))
    return Machine(tmp_path)


@pytest.fixture
def person(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Person:
    monkeypatch.setattr("vllm_builder.stages.vendor.mirrors.WAITS", (0.0, 0.0))
    return Person(machine, monkeypatch, capsys)


@pytest.fixture
def kit(person: Person) -> Kit:
    return Kit(person)
