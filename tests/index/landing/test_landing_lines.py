"""The lines that the page gives really install."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_helpers import Opener, install, installed, line
from playwright.sync_api import expect

if TYPE_CHECKING:
    pass


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


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_withdrawn_nightly_still_installs(
    opened: Opener, installable: tuple[Path, str], public: str, tmp_path: Path, installer: str
) -> None:
    page = opened(f"{installable[1]}#channel=nightly&installer={installer}")
    install(shlex.split(line(page)), public, tmp_path)
    assert installed(tmp_path, "0.9.3.dev1+g1.cu130")


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
