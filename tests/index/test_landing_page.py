"""The page for people, in a real browser without a window."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_helpers import S3Server, make_wheel, s3_client
from landing_helpers import ENVELOPE, candidate, make_index, put, served, yank
from packaging.version import Version
from web_helpers import nginx

from vllm_builder.architectures import can_run, runs_binary
from vllm_builder.index import landing
from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.landing import data
from vllm_builder.index.manifest import Draft, load
from vllm_builder.index.model import Checked, Facts
from vllm_builder.index.serving import Server, nginx_config
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium in PATH")
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
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


Opener = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens a page; afterwards nothing may have gone wrong in it, and nothing may have been asked of elsewhere."""
    contexts, troubles, asked = [], [], []

    def open_page(address: str, *, expect_missing: bool = False, **context: Any) -> Page:
        made = browser.new_context(**{"viewport": DESKTOP, **context})
        contexts.append(made)
        page = made.new_page()
        page.set_default_timeout(10_000)
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


# -- choosing ---------------------------------------------------------------------------------------


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


# -- the lines --------------------------------------------------------------------------------------


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
        ],
    )
    with served(base.parent) as address:
        yield base / "index", address + quote("team's") + "/index/"


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


@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_the_line_installs(
    opened: Opener, installable: tuple[Path, str], public: str, tmp_path: Path, installer: str, scheme: str
) -> None:
    folder, address = installable
    where = address if scheme == "http" else (folder / "index.html").as_uri()
    page = opened(f"{where}#variant=cu129&installer={installer}")
    install(shlex.split(line(page)), public, tmp_path)
    assert installed(tmp_path, "0.9.2+cu129")


def test_a_version_without_local_part_is_named_by_its_file(
    opened: Opener, installable: tuple[Path, str], public: str, tmp_path: Path
) -> None:
    page = opened(installable[1] + "#channel=plain")
    assert "#sha256=" in line(page)
    install(shlex.split(line(page)), public, tmp_path)
    assert installed(tmp_path, "0.9.2")


def test_the_project_file_installs(
    opened: Opener, installable: tuple[Path, str], public: str, tmp_path: Path
) -> None:
    page = opened(installable[1] + f"#installer=project&python=3.{sys.version_info.minor}")
    (tmp_path / "pyproject.toml").write_text(line(page))
    assert line(page, 1) == "uv sync"
    install(["uv", "sync"], public, tmp_path, into="")
    assert installed(tmp_path, "0.9.2+cu130")
    assert "explicit = true" in line(page)
    # A lock of theirs goes on holding.
    install(["uv", "sync", "--locked"], public, tmp_path, into="")


@pytest.mark.parametrize("installer", ["pip", "uv pip"])
def test_both_requirements_install(
    opened: Opener, installable: tuple[Path, str], public: str, tmp_path: Path, installer: str
) -> None:
    page = opened(installable[1] + "#installer=requirements")
    direct, hashed = tmp_path / "direct", tmp_path / "hashed"
    direct.mkdir()
    hashed.mkdir()
    (direct / "requirements.txt").write_text(line(page, 0) + "\n")
    install([*installer.split(), "install", "-r", "requirements.txt"], public, direct)
    assert installed(direct, "0.9.2+cu130")
    (hashed / "requirements.txt").write_text(line(page, 1) + "\n")
    install(
        [*installer.split(), "install", "--require-hashes", "--no-deps", "-r", "requirements.txt"],
        public,
        hashed,
    )
    assert list(hashed.glob("target/vllm-0.9.2+cu130.dist-info"))


def test_plain_http_elsewhere_needs_trust(opened: Opener, folder: Path) -> None:
    page = opened((folder / "index.html").as_uri())
    address = page.get_by_label("Address of this index")
    address.fill("http://wheels.example:8080/team/index.html?x=1#y")
    host = "http://wheels.example:8080/team/release/cu130/"
    want = f"pip install vllm==0.9.2+cu130 --extra-index-url {host} --trusted-host wheels.example:8080"
    expect(page.locator("#answer pre")).to_have_text(want)
    address.fill("https://somebody:secret@wheels.example/team")
    expect(page.locator("#answer pre")).not_to_contain_text("trusted")
    assert line(page).endswith(" https://wheels.example/team/release/cu130/")
    address.fill("https://wheels.example/'; rm -rf ~ #/$(x)")
    expect(page.locator("#answer pre")).to_contain_text("rm")
    assert len(shlex.split(line(page))) == 5
    address.fill("javascript:alert(1)")
    page.locator("#answer .notice").wait_for()
    assert page.locator("#answer pre").count() == 0


# -- who looks, and on what -------------------------------------------------------------------------


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
    install(shlex.split(line(page)), public, tmp_path)
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
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
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


@pytest.fixture
def shots() -> Path | None:
    """Where screenshots are wanted: VLLM_BUILDER_SHOTS=FOLDER."""
    wanted = os.environ.get("VLLM_BUILDER_SHOTS")
    return Path(wanted) if wanted else None


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


# -- other indexes ----------------------------------------------------------------------------------


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


# -- the rules, in both languages --------------------------------------------------------------------


@pytest.fixture
def rules(opened: Opener, url: str) -> Page:
    return opened(url)


def test_the_same_code_runs_on_the_same_gpu(rules: Page) -> None:
    numbers = ["7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]
    codes = [n + suffix + ptx for n in numbers for suffix in ("", "a", "f") for ptx in ("", "+PTX")]
    gpus = [one["capability"] for one in data.gpus()]
    found = rules.evaluate(
        "([codes, gpus]) => codes.map(code => gpus.map(gpu => vllmIndex.rules.answer([code], gpu)))",
        [codes, gpus],
    )
    for code, answers in zip(codes, found, strict=True):
        for gpu, answer in zip(gpus, answers, strict=True):
            native = runs_binary(code.partition("+")[0], gpu)
            assert answer == ("native" if native else "jit" if can_run(code, gpu) else "dead"), (code, gpu)


numbers = st.integers(0, 10**14) | st.integers(0, 3)
versions = st.builds(
    lambda epoch, release, pre, post, dev, local: (
        f"{epoch}" + ".".join(map(str, release)) + pre + post + dev + local
    ),
    st.sampled_from(["", "1!"]),
    st.lists(numbers, min_size=1, max_size=4),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(["a", "b", "rc"]), numbers)),
    st.one_of(st.just(""), st.builds(".post{}".format, numbers)),
    st.one_of(st.just(""), st.builds(".dev{}".format, numbers)),
    st.one_of(st.just(""), st.builds("+{}".format, st.lists(st.sampled_from(["cu130", "cu9", "g1", "1", "12", "a", "ab"]),
                                                           min_size=1, max_size=3).map(".".join))),
).map(lambda text: str(Version(text)))  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(versions, min_size=20, max_size=60))
def test_the_same_version_is_the_newer_one(rules: Page, given_versions: list[str]) -> None:
    keys = rules.evaluate("all => all.map(vllmIndex.rules.sortKey)", given_versions)
    by_key = [v for _, v in sorted(zip(keys, given_versions, strict=True), key=lambda pair: pair[0])]
    assert [Version(v) for v in by_key] == sorted(map(Version, given_versions))
