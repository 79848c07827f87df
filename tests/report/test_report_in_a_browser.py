"""The page in a real browser: it asks for nothing, works by keyboard, can be used by those who do not see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_helpers import DESKTOP, PHONE, Opener
from playwright.sync_api import expect
from report_helpers import Build, large, put, small

from vllm_builder.cache import Workspace
from vllm_builder.report import finding, html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BAR = "#chart rect[data-i]"


def made(folder: Path, *builds: Build) -> str:
    workspace = Workspace(folder / "a folder")
    report = finding.report(workspace, put(workspace, *builds))
    return html.write(report, workspace.report(report.plan.digest)).as_uri()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    failed = small()
    fault = {"name": "CompileFailed", "exit_code": 53, "what": "No <vector>.", "why": "Because."}
    failed.lines[-1] = {"kind": "end", "at": failed.began + 44, "outcome": "failed", "fault": fault}
    return {
        "built": made(tmp_path_factory.mktemp("built"), small(1_700_000_000, slower=1.5), small()),
        "failed": made(tmp_path_factory.mktemp("failed"), failed),
        "planned": made(tmp_path_factory.mktemp("planned"), Build().stage(0, "source").end(3, "interrupted")),
        "large": made(tmp_path_factory.mktemp("large"), large(1000, 16)),
    }


@pytest.mark.parametrize("name", ["built", "failed", "planned", "large"])
def test_nothing_is_asked_for_and_nothing_goes_wrong(
    pages: dict[str, str], name: str, browser: Browser
) -> None:
    asked: list[str] = []
    troubles: list[str] = []
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(pages[name])
    page.wait_for_load_state("networkidle")
    assert page.locator(".tiles dd").count() >= 3
    context.close()
    assert asked == [pages[name]]
    assert troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["built", "failed", "planned", "large"])
def test_axe_finds_nothing(opened: Opener, pages: dict[str, str], name: str, scheme: str) -> None:
    page = opened(pages[name], color_scheme=scheme)
    for details in page.locator("details > summary").all():
        details.click()
    if page.locator(BAR).count():
        page.locator("#chart").focus()
        page.keyboard.press("ArrowRight")
    found = axe(page)
    assert not found.response["violations"], found.generate_report()


def axe(page: Page):  # type: ignore[no-untyped-def]
    return Axe().run(page)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["built", "failed", "large"])
def test_nothing_is_wider_than_the_screen(
    opened: Opener, pages: dict[str, str], name: str, size: dict[str, int]
) -> None:
    page = opened(pages[name], viewport=size)
    for details in page.locator("details > summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_every_unit_has_a_bar_and_a_row(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["large"])
    assert page.locator(BAR).count() == 1000
    assert page.locator("#units tbody tr").count() == 1000
    boxes = page.locator("#chart svg.timeline").bounding_box()
    last = page.locator(f"{BAR} >> nth=-1").bounding_box()
    assert boxes is not None
    assert last is not None
    assert boxes["x"] <= last["x"] <= last["x"] + last["width"] <= boxes["x"] + boxes["width"] + 2


def test_units_are_walked_through_by_keyboard(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["built"])
    readout = page.locator("#readout")
    page.locator("#chart").focus()
    page.keyboard.press("Home")
    expect(readout).to_contain_text("csrc/cpu/cache.cpp")
    expect(readout).to_contain_text("slot 1")
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("csrc/cpu/attention.cpp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    expect(readout).to_contain_text("_C.abi3.so")
    page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text("csrc/cpu/utils.cpp")
    expect(readout).to_contain_text("from the compiler cache")
    expect(page.locator(f"{BAR}.chosen")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(readout).to_be_empty()


def test_pointing_at_a_bar_says_what_it_is(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["built"])
    page.locator(BAR).first.hover()
    expect(page.locator("#readout")).to_contain_text("csrc/cpu/cache.cpp (_C)")


def test_zooming_keeps_the_chart_in_its_frame(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["large"], viewport=PHONE)
    width = "document.getElementById('canvas').clientWidth"
    before = page.evaluate(width)
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    assert page.evaluate(width) == pytest.approx(4 * before, abs=4)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator("#chart").focus()
    page.keyboard.press("End")
    expect(page.locator(f"{BAR}.chosen")).to_be_in_viewport()
    page.get_by_role("button", name="Fit").click()
    assert page.evaluate(width) == before


def test_a_short_name_stands_in_a_wide_bar(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["built"])
    expect(page.locator("#chart .label", has_text="cache.cpp")).to_be_visible()


def test_units_are_sorted_and_searched(opened: Opener, pages: dict[str, str]) -> None:
    page = opened(pages["built"])
    page.get_by_text("Show them").click()
    names = page.locator("#units tbody tr:not([hidden]) th")
    page.locator("#units thead").get_by_role("button", name="time").click()
    assert names.first.inner_text() == "csrc/cpu/attention.cpp"
    head = page.locator("#units thead th", has_text="time")
    expect(head).to_have_attribute("aria-sort", "descending")
    page.locator("#units thead").get_by_role("button", name="time").click()
    assert names.last.inner_text() == "csrc/cpu/attention.cpp"
    page.get_by_label("Units whose name").fill("UTILS")
    assert names.all_inner_texts() == ["csrc/cpu/utils.cpp"]
    expect(page.locator("#found")).to_have_text("1 of 4")


def test_without_javascript_all_of_it_can_be_read(browser: Browser, pages: dict[str, str]) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=DESKTOP)
    page = context.new_page()
    page.goto(pages["built"])
    assert page.locator(BAR).count() == 4
    assert page.locator("#zoom").is_hidden()
    page.get_by_text("Show them").click()
    assert page.locator("#units tbody tr").count() == 4
    context.close()


def test_names_are_text_and_never_markup(opened: Opener, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>.cpp"
    build = small(torch=evil)
    build.lines[0]["machine"]["system"] = evil
    for line in build.lines:
        if line["kind"] == "edges":
            line["sources"] = dict.fromkeys(line["sources"], f"/tree/@DATA@{evil}")
    build.line(44, "note", stage="x", message=evil)
    page = opened(made(tmp_path, build))
    assert page.locator("img").count() == 0
    page.locator("#chart").focus()
    page.keyboard.press("Home")
    expect(page.locator("#readout")).to_contain_text(f"@DATA@{evil}")
