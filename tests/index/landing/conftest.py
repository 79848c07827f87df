"""A browser without a window, and indexes to look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from browser_helpers import DESKTOP, Opener
from index_helpers import make_wheel
from landing_helpers import candidate, make_index, put, served, yank
from playwright.sync_api import expect, sync_playwright

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.storage.folder import Folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 30_000
"""Milliseconds; a machine may be busy with other things."""
WITHOUT_CHROMIUM = "VLLM_BUILDER_TEST_WITHOUT_CHROMIUM"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        text = f"Chromium is not installed (Debian: chromium). {WITHOUT_CHROMIUM}=1 leaves these tests out."
        (pytest.skip if os.environ.get(WITHOUT_CHROMIUM) == "1" else pytest.fail)(text)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


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


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens a page; afterwards nothing may have gone wrong in it, and nothing may have been asked of elsewhere."""
    contexts, troubles, asked = [], [], []

    def open_page(address: str, *, expect_missing: bool = False, **context: Any) -> Page:
        made = browser.new_context(**{"viewport": DESKTOP, **context})
        contexts.append(made)
        page = made.new_page()
        page.set_default_timeout(PATIENCE)
        if not expect_missing:
            page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(f"dialog {dialog.message}"))
        own = urlsplit(address)
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((f"{own.scheme}://{own.netloc}/", "data:"))
                else asked.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []
    assert asked == []


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
