"""The configuration that is printed for nginx: it answers as `index serve` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import requests
from index_helpers import make_wheel
from web_helpers import nginx

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.pages import JSON_TYPE
from vllm_builder.index.publishing import publish
from vllm_builder.index.serving import Server, nginx_config
from vllm_builder.index.storage.folder import Folder

PAGE = "nightly/cu130/demo-pkg/"
PIP = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
UV = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of one index: by `index serve`, by nginx."""
    base = tmp_path_factory.mktemp("web")
    root = base / "my index"
    publish(
        Folder(root),
        [read_candidate(make_wheel(base, "demo-pkg", "1.0+cu130"), channels=["nightly", "1.0.x"])],
    )
    (root / "index.html").write_text("<title>All</title>")
    (root / "landing").mkdir(exist_ok=True)
    (root / "landing" / "data.json").write_text("{}")
    (root / "landing" / "page.css").write_text("p { }")
    (root / ".index" / "note").write_text("hidden")
    server = Server(root)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with nginx(root, base / "nginx", lambda port: nginx_config(root, listen=f"127.0.0.1:{port}")) as (
        port,
        _,
    ):
        yield server.url, f"http://127.0.0.1:{port}/"
    server.stop()
    thread.join(10)


def ask(url: str, **headers: str | None) -> requests.Response:
    told = {name.replace("_", "-"): value for name, value in headers.items()} | {"Accept-Encoding": None}
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=told, timeout=20, allow_redirects=False)


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", BROWSER, "text/html", PIP, UV, JSON_TYPE, "application/vnd.pypi.simple.latest+json",
     f"{JSON_TYPE};q=0, */*", f"text/html, {JSON_TYPE}; q=0.0"],
)  # fmt: skip
@pytest.mark.parametrize("page", [PAGE, "nightly/cu130/", "1.0.x/cu130/demo-pkg/"])
def test_the_same_page_for_the_same_wish(both: tuple[str, str], accept: str | None, page: str) -> None:
    ours, theirs = (ask(url + page, Accept=accept) for url in both)
    assert ours.status_code == theirs.status_code == 200
    assert theirs.content == ours.content
    assert theirs.headers["Content-Type"] == ours.headers["Content-Type"]
    assert "Accept" in theirs.headers["Vary"].split(", ")
    assert theirs.headers["Cache-Control"] == ours.headers["Cache-Control"]
    assert "Last-Modified" not in theirs.headers
    assert "Last-Modified" not in ours.headers
    for url, before in zip(both, (ours, theirs), strict=True):
        assert ask(url + page, Accept=accept, If_None_Match=before.headers["ETag"]).status_code == 304
        assert ask(url + page, Accept=accept, If_None_Match='"other"').status_code == 200


@pytest.mark.parametrize(
    "path",
    ["", PAGE + "index.html", PAGE + "index.json", "landing/data.json", "landing/index.js", "landing/page.css", "nightly/",
     "landing/demo-pkg/cu130/", "manifest/root.json", "nothing", PAGE + "nothing", "files/", "files/demo-pkg/",
     ".index/note", "nightly/.index/", "%2eindex/note", "nightly/cu130/..%2f..%2f.index/note"],
)  # fmt: skip
def test_the_same_answer_for_other_addresses(both: tuple[str, str], path: str) -> None:
    ours, theirs = (ask(url + path) for url in both)
    assert "hidden" not in theirs.text
    if ours.status_code == 404:
        assert theirs.status_code in {403, 404}
        return
    assert theirs.status_code == ours.status_code == 200
    assert theirs.content == ours.content
    assert theirs.headers["Content-Type"] == ours.headers["Content-Type"]


def test_wheels_their_sidecars_and_parts_of_them(both: tuple[str, str]) -> None:
    page = ask(both[0] + PAGE + "index.json").json()
    path = page["files"][0]["url"].removeprefix("../../../")
    for name in (path, path + ".metadata"):
        for headers in ({}, {"Range": "bytes=-22"}, {"Range": "bytes=2-5"}):
            ours, theirs = (ask(url + name, **headers) for url in both)
            assert theirs.status_code == ours.status_code == (206 if headers else 200)
            assert theirs.content == ours.content
            assert theirs.headers["Content-Type"] == ours.headers["Content-Type"]
            assert theirs.headers["Cache-Control"] == ours.headers["Cache-Control"]
            assert theirs.headers.get("Content-Range") == ours.headers.get("Content-Range")


def test_a_folder_without_its_slash(both: tuple[str, str]) -> None:
    for url in both:
        answer = ask(url + PAGE.rstrip("/"))
        assert answer.status_code == 301
        assert requests.compat.urljoin(answer.url, answer.headers["Location"]) == url + PAGE


def test_pages_are_compressed_for_who_asks(both: tuple[str, str]) -> None:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(both[1] + PAGE, headers={"Accept": PIP, "Accept-Encoding": "gzip"}, timeout=20)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json()["name"] == "demo-pkg"
