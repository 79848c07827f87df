"""Places for an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_helpers import dist as dist
from command_helpers import index as index
from command_helpers import types as types
from index_helpers import S3Server, s3_server, use_server
from site_helpers import sites as sites
from site_helpers import wheels as wheels
from web_helpers import Clients


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """An S3-speaking server on loopback, with an empty bucket."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``--to`` is, with this process's environment pointed to the server."""
    return use_server(s3, monkeypatch)


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """pip and uv with nothing configured."""
    return Clients.at(tmp_path / "home")
