"""Other indexes than the usual one, hostile words, missing and foreign data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from browser_helpers import Opener, chip, chosen, line, notice
from landing_helpers import candidate, put, served, yank
from playwright.sync_api import expect

from vllm_builder.index import landing
from vllm_builder.index.manifest import Draft, load
from vllm_builder.index.model import Checked, Facts
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change

if TYPE_CHECKING:
    pass


def test_an_empty_index(opened: Opener, tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    put(storage, [candidate(tmp_path / "w", "1.0+cpu", "cpu", channel="release")])

    def all_gone(draft: Draft) -> None:
        for _, files in draft.everywhere():
            files.clear()

    change(storage, all_gone)
    with served(tmp_path) as address:
        page = opened(address)
        page.get_by_role("heading", name="Nothing has been published yet").wait_for()
        assert not page.locator("#choose").is_visible()
        plain = opened(address, java_script_enabled=False)
        assert "Nothing has been published yet." in plain.locator("main").inner_text()


def test_other_projects(opened: Opener, tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    put(storage, [candidate(tmp_path / "w", "1.0+cpu", "cpu", channel="release")])
    put(
        storage,
        [
            candidate(
                tmp_path / "w", "2.5", "any", name="flash-kernels", channel="release", tag="py3-none-any"
            )
        ],
    )
    put(
        storage,
        [candidate(tmp_path / "w", "0.1", "any", name="only-by-version", channel="0.1", tag="py3-none-any")],
    )
    with served(tmp_path) as address:
        page = opened(address)
        assert chosen(page) == "vllm 1.0+cpu"
        page.get_by_label("Project", exact=True).select_option("flash-kernels")
        expect(page.locator(".subject")).to_have_text("flash-kernels 2.5")
        page.get_by_label("GPU").select_option("H100")
        assert chosen(page) == "flash-kernels 2.5"
        page.get_by_label("Project", exact=True).select_option("only-by-version")
        expect(page.locator(".subject")).to_have_text("only-by-version 0.1")
        assert chip(page, "Channel", "by version").is_checked()
        chip(page, "Installer", "uv pip").check()
        expect(page.locator("pre").first).to_contain_text("uv pip install")
        assert line(page) == f"uv pip install only-by-version==0.1 --index {address}0.1/any/"


def test_one_release_with_and_without_local_part(opened: Opener, tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    put(
        storage,
        [candidate(tmp_path / "w", v, "cu130", channel="release") for v in ("1.0", "1.0+cu130", "0.9+cu130")],
    )
    with served(tmp_path) as address:
        page = opened(address)
        assert chosen(page) == "vllm 1.0+cu130"
        values = (
            page.get_by_label("Version").locator("option").evaluate_all("all => all.map(one => one.value)")
        )
        assert values == ["1.0+cu130", "1.0", "0.9"]
        page.get_by_label("Version").select_option("1.0")
        expect(page.locator(".subject")).to_have_text("vllm 1.0")
        assert line(page).startswith(f"pip install 'vllm @ {address}files/vllm/1.0/")


def test_what_was_withdrawn_is_not_offered(opened: Opener, tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    put(
        storage,
        [candidate(tmp_path / "w", v, "cu130", channel="release") for v in ("1.0+cu130", "1.2+cu130")],
    )
    put(storage, [candidate(tmp_path / "w", "1.1+cu126", "cu126", channel="release")])
    yank(storage, "vllm", "1.2+cu130", "broken")
    with served(tmp_path) as address:
        assert chosen(opened(address)) == "vllm 1.1+cu126"
        assert chosen(opened(address + "#gpu=B200")) == "vllm 1.0+cu130"
        page = opened(address + "#gpu=B200&version=1.1")
        assert "has no code for sm_100" in notice(page)
        # 1.2 would be nearer.
        assert "Nearest: 1.0 for cu130" in page.locator("#answer").inner_text()
        assert chosen(opened(address + "#version=1.2")) == "vllm 1.2+cu130"


HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "\"'><svg onload=alert(3)>\u2028\x7f"
)


def test_hostile_words_stay_words(opened: Opener, tmp_path: Path) -> None:
    storage = Folder(tmp_path)
    one = candidate(
        tmp_path / "w",
        "1.0+cu130",
        "cu130",
        channel="release",
        checked=Checked(result="not verified", reason=HOSTILE),
    )
    evil = Facts(
        release=HOSTILE, commit=HOSTILE, device="cuda", archs=(HOSTILE, "9.0"), cuda=HOSTILE,
        torch=HOSTILE + "+" + HOSTILE, digest=HOSTILE, summary=HOSTILE,
    )  # fmt: skip
    put(storage, [replace(one, facts=evil, requires_python=HOSTILE)])
    yank(storage, "vllm", "1.0+cu130", HOSTILE)
    with served(tmp_path) as address:
        for fragment in ("", "#gpu=B200", "#gpu=H100&installer=project"):
            page = opened(address + fragment)
            # For H100 the answer, with every word of it; for B200 why there is none.
            expect(page.locator("#answer")).to_contain_text(HOSTILE.split("\u2028")[0])
            assert page.evaluate("window.hacked") is None
            assert page.locator("#work img, #work svg, #work script").count() == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 2


def test_no_inline_code_would_run(opened: Opener, url: str) -> None:
    page = opened(url, expect_missing=True)
    chosen(page)
    ran = page.evaluate(
        """() => {
            const script = document.createElement('script'); script.textContent = 'window.hacked = 1';
            document.head.append(script); return window.hacked || 0;
        }"""
    )
    assert ran == 0


def test_a_data_file_that_is_missing_is_said(opened: Opener, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "index"
    shutil.copytree(folder, copied)
    (copied / "landing/vllm/cu130/0.9.2+cu130.js").unlink()
    (copied / "landing/vllm/cu129/index.js").unlink()
    with served(copied) as address:
        page = opened(address, expect_missing=True)
        page.get_by_role("alert").wait_for()
        assert "landing/vllm/cu129/index.js cannot be loaded" in page.get_by_role("alert").inner_text()
        page.locator("#answer .notice").wait_for()
        assert "0.9.2+cu130.js cannot be loaded" in notice(page)
        storage = Folder(copied)
        snapshot = load(storage)
        assert snapshot is not None
        for key, content, _ in landing.objects(storage, snapshot):
            (copied / key).write_bytes(content)
        assert chosen(opened(address)) == "vllm 0.9.2+cu130"


def test_data_of_another_version_is_not_guessed_at(opened: Opener, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "index"
    shutil.copytree(folder, copied)
    data_file = copied / "landing/index.js"
    data_file.write_text(data_file.read_text().replace('"format":1', '"format":2'))
    page = opened((copied / "index.html").as_uri())
    expect(page.get_by_role("alert")).to_contain_text("index rebuild")
    assert not page.locator("#work").is_visible()
