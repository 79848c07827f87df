"""Fixtures of the publish stage's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from publish_helpers import Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
def wheels(tmp_path: Path) -> Callable[..., Path]:
    """``wheels("demo", "1.0")``: a tiny wheel in a folder of its own."""
    from index_helpers import make_wheel

    count = iter(range(1000))
    return lambda *args, **more: make_wheel(tmp_path / f"wheels{next(count)}", *args, **more)
