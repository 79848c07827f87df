"""What tests of the page for people see of it, and what they do with the lines that it gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}

Opener = Callable[..., "Page"]


def chip(page: Page, group: str, name: str) -> Locator:
    return page.get_by_role("group", name=group).get_by_role("radio", name=name, exact=True)


def line(page: Page, at: int = 0) -> str:
    found = page.locator("#answer pre").nth(at)
    found.wait_for()
    return found.text_content() or ""


def chosen(page: Page) -> str:
    page.locator("#answer .subject").wait_for()
    return page.locator("#answer .subject").inner_text()


def notice(page: Page) -> str:
    page.locator("#answer .notice").first.wait_for()
    return page.locator("#answer .notice").first.inner_text()


def facts(page: Page) -> dict[str, str]:
    page.locator("dl.facts").first.wait_for()
    names = page.locator("dl.facts").first.locator("dt").all_inner_texts()
    return dict(zip(names, page.locator("dl.facts").first.locator("dd").all_inner_texts(), strict=True))


def install(arguments: list[str], public: str, tmp_path: Path, *, into: str = "--target") -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "VIRTUAL_ENV"))}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": public, "PIP_NO_CACHE_DIR": "1"}
    env |= {"UV_DEFAULT_INDEX": public, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_PROGRESS": "1"}
    env |= {
        "UV_PROJECT_ENVIRONMENT": str(tmp_path / "env"),
        "UV_PYTHON": sys.executable,
        "HOME": str(tmp_path),
    }
    command = {"pip": [sys.executable, "-m", "pip"], "uv": [str(Path(sys.executable).with_name("uv"))]}[
        arguments[0]
    ]
    more = [into, str(tmp_path / "target")] if into else []
    done = subprocess.run(
        [*command, *arguments[1:], *more],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def installed(tmp_path: Path, version: str) -> bool:
    where = next(
        one for one in (tmp_path / "target", *tmp_path.glob("env/lib/*/site-packages")) if one.is_dir()
    )
    assert (where / "vllm/__init__.py").read_text() == "public = False\n"
    assert (where / "helper/__init__.py").is_file()
    return (where / f"vllm-{version}.dist-info").is_dir()
