"""Who uses the page, with what, and from where."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_helpers import DESKTOP, PHONE, Opener, chip, chosen, facts, install, installed, line
from index_helpers import S3Server, s3_client
from landing_helpers import ENVELOPE, candidate, put
from playwright.sync_api import expect
from web_helpers import nginx

from vllm_builder.index.serving import Server, nginx_config
from vllm_builder.index.storage import open_storage

if TYPE_CHECKING:
    pass


def test_a_copied_folder_works_as_a_file(opened: Opener, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied here"
    shutil.copytree(folder, copied)
    page = opened((copied / "index.html").as_uri())
    assert line(page) == f"pip install vllm==0.9.2+cu130 --extra-index-url {copied.as_uri()}/release/cu130/"
    assert "this computer only" in page.locator("#address-hint").inner_text()


@contextmanager
def at_a_place(place: str, folder: Path, tmp_path: Path) -> Iterator[str]:
    if place == "serve":
        server = Server(folder)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield server.url
        server.stop()
        thread.join(10)
    else:
        with nginx(
            folder, tmp_path / "nginx", lambda port: nginx_config(folder, listen=f"127.0.0.1:{port}")
        ) as (
            port,
            _,
        ):
            yield f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("place", ["serve", "nginx"])
def test_under_a_web_server(opened: Opener, folder: Path, tmp_path: Path, place: str) -> None:
    with at_a_place(place, folder, tmp_path) as address:
        page = opened(address)
        assert line(page) == f"pip install vllm==0.9.2+cu130 --extra-index-url {address}release/cu130/"
        for link in page.locator("#channels-body a, #answer dd a").all():
            assert page.request.get(link.evaluate("e => e.href")).ok


def test_on_an_object_store(opened: Opener, s3: S3Server, s3_url: str, public: str, tmp_path: Path) -> None:
    requires = {"requires": ["helper>=1"], "body": "public = False\n", "tag": "py3-none-any"}
    provenance = ENVELOPE.encode()
    one = candidate(
        tmp_path / "w", "0.9.2+cu130", "cu130", channel="release", provenance=provenance, **requires
    )
    put(open_storage(s3_url), [one])
    read = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{s3.bucket}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [read]})
    s3_client(s3).put_bucket_policy(Bucket=s3.bucket, Policy=policy)
    page = opened(f"{s3.url}/{s3_url.removeprefix('s3://')}/index.html#installer=uv&version=0.9.2")
    assert facts(page)["Provenance"].startswith("statement, signed")
    for link in page.locator("#channels-body a, #answer dd a").all():
        assert page.request.get(link.evaluate("e => e.href")).ok
    # Only the JSON pages have times of upload.
    install([*shlex.split(line(page)), "--exclude-newer-package", "vllm=2099-01-01"], public, tmp_path)
    assert installed(tmp_path, "0.9.2+cu130")


def test_keyboard_alone(opened: Opener, url: str) -> None:
    page = opened(url)
    chosen(page)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.value"))

    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(focused())
        if seen[-1] == "gpu":
            page.keyboard.type("B200")
        if seen[-1] == "release":
            page.keyboard.press("ArrowRight")
            assert focused() == "nightly"
            expect(page.locator(".subject")).to_contain_text("dev9")
        if seen[-1] == "pip":
            page.keyboard.press("ArrowRight")
            expect(page.locator("pre").first).to_contain_text("uv pip install")
            assert focused() == "uv"
        if seen[-1] == "share":
            break
    order = ["gpu", "python", "machine", "release", "version", "cu130", "pip"]
    assert [one for one in seen if one in order] == order
    assert seen[-1] == "share"
    assert page.get_by_label("GPU").input_value() == "B200"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_answer_is_said(opened: Opener, url: str) -> None:
    page = opened(url)
    status = page.locator("#said[role=status]")
    expect(page.locator("#said")).to_contain_text("0.9.2+cu130")
    chip(page, "Installer", "uv pip").check()
    expect(page.locator("#said")).to_contain_text("uv pip install")
    assert "variant cu130" in status.inner_text()


AUDITED = [
    "",
    "#gpu=RTX+5090&version=0.9.0&variant=cu129",
    "#channel=nightly&installer=requirements",
    "#installer=project",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_accessibility_and_width(
    opened: Opener, url: str, scheme: str, size: dict[str, int], shots: Path | None
) -> None:
    axe = Axe()
    page = opened(url, color_scheme=scheme, viewport=size, reduced_motion="reduce")
    for at, fragment in enumerate(AUDITED):
        page.goto(url + fragment)
        page.locator("#answer > *").nth(1).wait_for()
        expect(page.locator("#answer .hint")).to_have_count(0)
        found = axe.run(page)
        assert found.response["violations"] == [], found.generate_report()
        assert len(found.response["passes"]) > 20
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1] == size["width"]
        if shots:
            page.screenshot(path=shots / f"{at}-{size['width']}-{scheme}.png", full_page=True)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 382
    assert light == (scheme == "light")


def test_touch_targets_are_large_enough(opened: Opener, url: str) -> None:
    page = opened(url, viewport=PHONE)
    chosen(page)
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, select, .chip, summary')].filter(e => e.offsetParent)"
        ".map(e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
    )
    assert sizes
    assert all(width >= 24 and height >= 24 for width, height in sizes)


def test_without_javascript(opened: Opener, url: str) -> None:
    # What pip reads has no icon, for which a browser then asks in vain.
    page = opened(url, java_script_enabled=False, expect_missing=True)
    page.get_by_role("link", name="vllm for cu130").click()
    assert page.get_by_role("heading", name="vllm for cu130").is_visible()
    links = page.locator("main a")
    assert links.all_inner_texts() == ["nightly", "release", "0.9.3.dev9", "0.9.2"]
    links.nth(1).click()
    assert "vllm-0.9.2+cu130" in page.inner_text("body")


def test_print(opened: Opener, url: str) -> None:
    page = opened(url, color_scheme="dark")
    text = line(page)
    page.emulate_media(media="print")
    assert not page.locator("#choose").is_visible()
    assert page.locator("pre", has_text=text.split()[2]).is_visible()
