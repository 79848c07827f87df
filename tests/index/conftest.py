"""Places for an index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from index_helpers import S3Server, s3_server, use_server


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """An S3-speaking server on loopback, with an empty bucket."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``--to`` is, with this process's environment pointed to the server."""
    return use_server(s3, monkeypatch)
