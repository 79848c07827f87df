"""Fixtures of the publish stage's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from publish_helpers import Publisher
from upload_servers import BadServer

from vllm_builder.index.upload import sending, server


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
def wheels(tmp_path: Path) -> Callable[..., Path]:
    """``wheels("demo", "1.0")``: a tiny wheel in a folder of its own."""
    from index_helpers import make_wheel

    count = iter(range(1000))
    return lambda *args, **more: make_wheel(tmp_path / f"wheels{next(count)}", *args, **more)


@pytest.fixture
def bad() -> BadServer:
    return BadServer()


@pytest.fixture
def url(bad: BadServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setattr(sending, "DELAYS", (0, 0))
    monkeypatch.setattr(server, "SETTLING", (0, 0.05))
    monkeypatch.setattr(sending, "TIMEOUT", (5, 0.5))
    with bad.serving() as address:
        yield address
