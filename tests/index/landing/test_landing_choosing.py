"""Choosing on the page for people, in a real browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from browser_helpers import Opener, chip, chosen, facts, line, notice
from playwright.sync_api import expect

if TYPE_CHECKING:
    pass


def test_it_opens_with_the_newest_release(opened: Opener, url: str) -> None:
    page = opened(url)
    assert chosen(page) == "vllm 0.9.2+cu130"
    assert line(page) == f"pip install vllm==0.9.2+cu130 --extra-index-url {url}release/cu130/"
    assert page.title() == "vllm wheels"
    assert chip(page, "Channel", "release").is_checked()
    assert chip(page, "Variant", "cu130").is_checked()
    assert chip(page, "Variant", "cu126").is_disabled()
    assert page.locator("#variant-hint").inner_text() == "cu126: there is none of 0.9.2."


def test_what_a_wheel_is(opened: Opener, url: str, folder: Path) -> None:
    page = opened(url + "#machine=x86_64")
    shown = facts(page)
    (wheel,) = folder.glob("files/vllm/0.9.2+cu130/*/*x86_64.whl")
    assert shown["File"] == wheel.name
    assert shown["sha256"] == wheel.parent.name
    assert shown["Size"] == f"{wheel.stat().st_size / 1000:.1f} kB"
    assert shown["GPU architectures"] == "sm_80, sm_86, sm_89, sm_90a, sm_100f, sm_120f"
    assert shown["torch"] == "2.11.0+cu130"
    assert shown["Python"] == "3.10 to 3.13 (Requires-Python >=3.10,<3.14)"
    assert shown["Verification"] == "Verified before it was published"
    assert shown["Published"].endswith("33 days ago")
    assert shown["Provenance"].startswith("statement, signed")
    assert page.request.get(page.locator("dd a.file").evaluate("e => e.href")).body() == wheel.read_bytes()
    assert page.request.get(page.locator("dd a", has_text="statement").evaluate("e => e.href")).ok
    chip(page, "Variant", "cu129").check()
    page.get_by_text("not signed").wait_for()
    page.goto(url + "#version=0.8.5")
    page.get_by_text("2 warnings").wait_for()


def test_a_gpu_moves_what_was_left_open(opened: Opener, url: str) -> None:
    page = opened(url)
    page.get_by_label("GPU").select_option("V100")
    expect(page.locator(".subject")).to_have_text("vllm 0.8.5+cu126")
    assert page.get_by_label("Version").input_value() == "0.8.5"
    assert page.get_by_label("Version").locator("option:disabled").count() == 3
    assert page.locator("#version-hint").inner_text() == "3 of 4 do not fit what you have."
    assert "binary code for V100 (sm_70)" in page.locator(".notes").inner_text()
    page.get_by_label("GPU").select_option("no GPU")
    expect(page.locator(".subject")).to_have_text("vllm 0.9.2+cpu")
    page.get_by_label("Python").select_option("3.11")
    assert "No wheel of vllm" in notice(page)
    assert "it is for Python 3.12" in notice(page)


def test_what_does_not_exist_is_said_and_the_nearest_is_offered(opened: Opener, url: str) -> None:
    page = opened(url + "#gpu=RTX+5090&version=0.9.0&variant=cu129")
    assert notice(page) == (
        "No wheel of vllm 0.9.0 for cu129 fits RTX 5090 (sm_120): it has no code for sm_120, "
        "only for sm_80, sm_86, sm_89, sm_90a, sm_100a."
    )
    assert "Nearest: 0.9.2 for cu130" in page.locator("#answer").inner_text()
    expect(page.locator("#said")).to_contain_text("Nearest: 0.9.2 for cu130")
    page.get_by_role("button", name="Choose it").click()
    assert chosen(page) == "vllm 0.9.2+cu130"
    assert page.get_by_label("GPU").input_value() == "RTX 5090"


def test_the_machine_counts(opened: Opener, url: str) -> None:
    page = opened(url + "#machine=aarch64")
    assert facts(page)["File"].endswith("aarch64.whl")
    assert chip(page, "Variant", "cu129").is_disabled()
    assert "cu129, cpu: it is for x86_64." in page.locator("#variant-hint").inner_text()
    page.goto(url + "#machine=aarch64&version=0.9.0&variant=cu129")
    expect(page.locator("#answer .notice")).to_contain_text("fits aarch64: it is for x86_64.")
    assert "Nearest: 0.9.2 for cu130" in page.locator("#answer").inner_text()


def test_nothing_fits_at_all(opened: Opener, url: str) -> None:
    page = opened(url + "#gpu=P100")
    assert "has no code for sm_60" in notice(page)
    assert "No wheel of vllm in this index fits." in page.locator("#answer").inner_text()


def test_a_choice_can_be_shared(opened: Opener, url: str) -> None:
    page = opened(url, permissions=["clipboard-read", "clipboard-write"])
    chip(page, "Channel", "nightly").check()
    chip(page, "Installer", "uv pip").check()
    assert chosen(page) == "vllm 0.9.3.dev9+g4f8d3c0.cu130"
    page.get_by_role("button", name="Copy a link").click()
    page.locator("#shared", has_text="Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    again = opened(link)
    assert line(again) == line(page)
    page.get_by_role("button", name="Copy: uv").click()
    page.locator(".copied", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == line(page)


def test_withdrawn_and_not_verified_are_said(opened: Opener, url: str) -> None:
    page = opened(url + "#version=0.9.1")
    assert "withdrawn: “Wrong results with FP8 on H100”." in notice(page)
    assert "0.9.1+cu129" in line(page)
    assert "0.9.1" not in page.locator("#channels-body").inner_text()
    page.goto(url + "#channel=nightly")
    page.locator(".notice", has_text="without being verified").wait_for()
    assert "the runner's disk was full" in notice(page)


def test_the_channels_and_their_ages(opened: Opener, url: str) -> None:
    page = opened(url)
    page.locator("#channels-body tr").first.wait_for()
    rows = [" ".join(row.split()) for row in page.locator("#channels-body tr").all_inner_texts()]
    assert "nightly / cu130 0.9.3.dev9+g4f8d3c0 7 hours ago 1" in rows
    assert "nightly / cu129 0.9.3.dev7+g1a2b3c4 5 days ago stale 1" in rows
    assert "release / cu126 0.8.5 3 months ago 1" in rows
    assert "release / cu129 0.9.2 33 days ago 2" in rows
    assert page.locator(".badge").count() == 1
    for link in page.locator("#channels-body a").all():
        assert page.request.get(link.evaluate("e => e.href")).ok


def test_the_age_is_that_of_the_clock_of_who_looks(opened: Opener, url: str) -> None:
    page = opened(url)
    page.clock.install(time=datetime.now(UTC) + timedelta(days=3))
    page.reload()
    page.locator(".badge").nth(1).wait_for()
    assert "3 days ago" in page.locator("#channels-body").inner_text()


def test_what_an_address_asks_for_in_vain_is_said(opened: Opener, url: str) -> None:
    page = opened(url + "#gpu=RTX+9999&version=0.1.0&variant=cu126&installer=uv")
    assert chosen(page) == "vllm 0.8.5+cu126"
    assert page.locator("#missing").inner_text() == (
        "Not to be had here: gpu RTX 9999, version 0.1.0. This is what comes nearest."
    )
    page.get_by_label("Version").select_option("0.9.0")
    expect(page.locator(".subject")).to_have_text("vllm 0.9.0+cu129")
    expect(page.locator("#missing")).to_contain_text("variant cu126")
    promoted = opened(url + "#channel=nightly&version=0.9.0")
    assert chosen(promoted) == "vllm 0.9.0+cu129"
    assert "release/cu129/" in line(promoted)
    expect(promoted.locator("#missing")).to_contain_text("channel nightly")


def test_what_is_selected_is_what_is_copied(opened: Opener, url: str) -> None:
    page = opened(url + "#installer=project")
    text = line(page)
    assert text.count("\n") > 8
    page.locator("#answer pre").first.evaluate("e => getSelection().selectAllChildren(e)")
    assert page.evaluate("getSelection().toString()").rstrip("\n") == text


def test_any_fragment_is_taken(opened: Opener, url: str) -> None:
    for fragment in (
        "#gpu=__proto__&python=constructor&version=%3Cimg%20src=x%20onerror=alert(1)%3E",
        "#%E0%A4%A",
        "#=",
    ):
        assert chosen(opened(url + fragment)) == "vllm 0.9.2+cu130"
