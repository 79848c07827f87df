from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_helpers import NAME, Entry, wheel_entries, zip_bytes

from vllm_builder.wheelfile import Wheel, open_wheel


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Wheel]:
    """Writes an honest wheel with further members, in a zip file made as told, and opens it."""

    def make(*further: Entry, name: str = NAME, **options: object) -> Wheel:
        path = tmp_path / name
        path.write_bytes(zip_bytes([*wheel_entries(), *further], **options))  # type: ignore[arg-type]
        return open_wheel(path)

    return make
