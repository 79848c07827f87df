"""A browser without a window, for whatever makes pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from browser_helpers import DESKTOP, Opener
from playwright.sync_api import expect, sync_playwright

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
