"""A browser without a window, and indexes to look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browser_fixtures import browser as browser
from browser_fixtures import opened as opened
from index_helpers import make_wheel
from landing_helpers import candidate, make_index, put, served, yank

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.storage.folder import Folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A prefix with a space: addresses are percent-encoded, commands are quoted.
    base = tmp_path_factory.mktemp("landing") / "team a"
    base.mkdir()
    return make_index(base)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder.parent.parent) as address:
        yield address + "team%20a/index/"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A public index: a dependency, and a vllm of the same public version that nobody wants."""
    base = tmp_path_factory.mktemp("public")
    make_wheel(base, "helper", "1.0")
    make_wheel(base, "vllm", "0.9.2", body="public = True\n")
    make_wheel(base, "vllm", "1.0", body="public = True\n")
    storage = Folder(base / "index")
    for wheel in base.glob("*.whl"):
        put(storage, [read_candidate(wheel, channels=["all"], variant="any")])
    with served(base / "index") as address:
        yield address + "all/any/"


@pytest.fixture(scope="module")
def installable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    base = tmp_path_factory.mktemp("installable") / "team's"
    base.mkdir()
    storage = Folder(base / "index")
    requires = {"requires": ["helper>=1"], "body": "public = False\n", "tag": "py3-none-any"}
    put(
        storage,
        [
            candidate(base, "0.9.2+cu130", "cu130", channel="release", **requires),
            candidate(base, "0.9.2+cu129", "cu129", channel="release", **requires),
            candidate(base, "0.9.2", "plain", channel="plain", **requires),
            candidate(base, "0.9.3.dev1+g1.cu130", "cu130", channel="nightly", **requires),
        ],
    )
    yank(storage, "vllm", "0.9.3.dev1+g1.cu130", "old")
    with served(base.parent) as address:
        yield base / "index", address + quote("team's") + "/index/"


@pytest.fixture
def shots() -> Path | None:
    """Where screenshots are wanted: VLLM_BUILDER_SHOTS=FOLDER."""
    wanted = os.environ.get("VLLM_BUILDER_SHOTS")
    return Path(wanted) if wanted else None
