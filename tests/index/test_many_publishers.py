"""Several publishers at once, killed at random moments; ``benchmarks/index_publishers.py`` has the full size."""

from __future__ import annotations

from pathlib import Path

import index_publishers
import pytest
from index_helpers import S3Server


@pytest.mark.parametrize("seed", [1, 2])
def test_on_a_folder(tmp_path: Path, seed: int) -> None:
    found = index_publishers.run(
        str(tmp_path / "index"), tmp_path, env={}, wheels=40, publishers=8, kills=15, pause=0.1, seed=seed
    )
    assert found["kills"]


def test_on_an_object_store(tmp_path: Path, s3: S3Server, s3_url: str) -> None:
    found = index_publishers.run(
        s3_url, tmp_path, env=s3.env, wheels=16, publishers=4, kills=8, pause=0.3, seed=3
    )
    assert found["kills"]
