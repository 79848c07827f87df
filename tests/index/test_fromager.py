"""fromager takes an index as its wheel server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from web_helpers import Clients, Site

from vllm_builder.indexes import read_indexes
from vllm_builder.stages.environment.uv import run_uv

pytestmark = pytest.mark.corpus  # installs it


@pytest.fixture(scope="module")
def fromager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own: it requires much that nothing else here needs."""
    folder = tmp_path_factory.mktemp("fromager")
    environ, indexes = dict(os.environ), read_indexes()
    for command in (
        ["venv", "--python", sys.executable, str(folder / "venv")],
        ["pip", "install", "--python", str(folder / "venv" / "bin" / "python"), "fromager>=0.70"],
    ):
        done = run_uv(command, environ=environ, indexes=indexes)
        assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin" / "fromager"


FROMAGER = """
variants:
  cu130:
    pre_built: true
    wheel_server_url: %s
"""


@pytest.mark.parametrize("where", ["serve", "nginx", "s3"])
def test_fromager_takes_wheels_that_are_not_to_be_built(
    where: str, sites: dict[str, Site], fromager: Path, clients: Clients, tmp_path: Path
) -> None:
    site = sites[where]
    (tmp_path / "settings").mkdir()
    for name in ("demo_vllm", "demo_dep"):
        (tmp_path / "settings" / f"{name}.yaml").write_text(FROMAGER % site.index("cu130"))
    done = clients.run(
        fromager, "--no-network-isolation", "--settings-dir", tmp_path / "settings", "--variant", "cu130",
        "bootstrap", "demo-vllm>=1.0", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    order = {one["dist"]: one for one in json.loads((tmp_path / "work-dir" / "build-order.json").read_text())}
    assert {name: (one["version"], one["prebuilt"]) for name, one in order.items()} == {
        "demo-vllm": ("1.1+cu130", True),
        "demo-dep": ("1.1+cu130", True),
    }
    for name in ("demo_vllm", "demo_dep"):
        assert (tmp_path / "wheels-repo" / "prebuilt" / f"{name}-1.1+cu130-py3-none-any.whl").is_file()


def test_fromager_builds_nothing_that_its_wheel_server_has(
    sites: dict[str, Site], fromager: Path, clients: Clients, tmp_path: Path
) -> None:
    # Its source can be had from nowhere.
    one = {
        "req": "demo-vllm",
        "dist": "demo-vllm",
        "version": "1.1+cu130",
        "prebuilt": False,
        "constraint": "",
    }
    one |= {"source_url": "http://127.0.0.1:1/none.tar.gz", "source_url_type": "sdist"}
    (tmp_path / "order.json").write_text(json.dumps([one]))
    done = clients.run(
        fromager, "--no-network-isolation", "build-sequence",
        "--cache-wheel-server-url", sites["serve"].index("cu130"), "order.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "wheels-repo" / "downloads" / "demo_vllm-1.1+cu130-py3-none-any.whl").is_file()
    (built,) = json.loads((tmp_path / "work-dir" / "build-sequence-summary.json").read_text())
    assert built["skipped"]
