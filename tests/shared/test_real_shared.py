"""The real wheel of v0.9.2, from one machine's cache to another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cache_servers import redis_server

from vllm_builder.stages.store import Store

pytestmark = pytest.mark.realbuild


def _run(*arguments: str | Path, url: str) -> dict[str, Any]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    run = subprocess.run(
        [sys.executable, "-m", "vllm_builder", *map(str, arguments), "--json"],
        env=kept | {"VLLM_BUILDER_SHARED_CACHE": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    assert "open-sesame" not in run.stdout + run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_a_real_wheel_through_redis(real_cpu: dict[str, Any], real_cache: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", password="open-sesame") as server:
        _run("cache", "shared", "--put", real_cpu["digest"], "--cache-dir", real_cache, url=server.url)
        there = ["--cache-dir", tmp_path / "cache", "--workspace", tmp_path / "build"]
        found = _run("build", *real_cpu["arguments"], *there, url=server.url)
        assert found["shared"] == server.url.replace(":open-sesame@", "")
        assert found["sha256"] == real_cpu["sha256"]
        assert Store(tmp_path / "cache/store").verify().ok
        layer = found["record"]["native"]["digest"]
        assert [key for key in server.listed() if key.endswith(f"/native/{layer[:2]}/{layer[2:]}")]
