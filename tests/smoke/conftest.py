"""A place to run smoke tests in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from smoke_helpers import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(made.temporary))
    yield made
    assert made.left() == []
