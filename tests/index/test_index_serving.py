"""`index serve`: what it answers, what it never shows, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from index_helpers import make_wheel
from werkzeug.test import Client, TestResponse

from vllm_builder.errors import NotInIndex, SettingsError
from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.pages import JSON_TYPE
from vllm_builder.index.publishing import publish
from vllm_builder.index.serving import Application, Server, nginx_config
from vllm_builder.index.storage.folder import Folder

PAGE = "/nightly/cu130/demo-pkg/"
V1_HTML = "application/vnd.pypi.simple.v1+html"
PIP = f"{JSON_TYPE}, {V1_HTML}; q=0.1, text/html; q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECRET = "not for anybody"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("serving")
    root = base / "index"
    wheel = make_wheel(base, "demo-pkg", "1.0+cu130", body="x = 1\n" * 2000)
    publish(Folder(root), [read_candidate(wheel, channels=["nightly"])])
    (root / "index.html").write_text("<title>All</title>")
    (root / ".index" / "note").write_text(SECRET)
    (base / "outside.txt").write_text(SECRET)
    (base / "index-too").mkdir()
    (base / "index-too" / "x.txt").write_text(SECRET)
    (root / "leaves").symlink_to(base / "outside.txt")
    (root / "files" / "up").symlink_to("../..")
    (root / "files" / "hidden").symlink_to("../.index")
    (root / "files" / "same").symlink_to("demo-pkg")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Client:
    return Client(Application(folder))


def wheel_path(client: Client) -> str:
    link: str = json.loads(client.get(PAGE + "index.json").data)["files"][0]["url"]
    return link.replace("../../..", "")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/html"),
        ("*/*", "text/html"),
        (BROWSER, "text/html"),
        ("text/html", "text/html"),
        (V1_HTML, V1_HTML),
        (PIP, JSON_TYPE),
        (JSON_TYPE, JSON_TYPE),
        ("application/vnd.pypi.simple.latest+json", JSON_TYPE),
        ("application/vnd.pypi.simple.latest+html", V1_HTML),
        (f"{JSON_TYPE};q=0.2, text/html;q=0.9", "text/html"),
        (f"{JSON_TYPE};q=0, */*", "text/html"),
        ("application/*", V1_HTML),
    ],
)
@pytest.mark.parametrize("path", [PAGE, "/nightly/cu130/"])
def test_a_page_is_what_the_client_asks_for(client: Client, path: str, accept: str | None, kind: str) -> None:
    answer = client.get(path, headers={"Accept": accept} if accept is not None else {})
    assert answer.status_code == 200
    assert answer.mimetype == kind
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.data.lstrip()[:1] == (b"{" if "json" in kind else b"<")
    assert answer.content_length == len(answer.data)


@pytest.mark.parametrize("accept", ["application/json", "image/png", "application/vnd.pypi.simple.v9+json"])
def test_what_it_cannot_give_is_refused_with_what_it_can(client: Client, accept: str) -> None:
    answer = client.get(PAGE, headers={"Accept": accept})
    assert answer.status_code == 406
    assert answer.headers["Vary"] == "Accept"
    assert JSON_TYPE in answer.text


def test_wheel_and_sidecar(client: Client, folder: Path) -> None:
    path = wheel_path(client)
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.mimetype == "application/octet-stream"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    (there,) = folder.glob("files/demo-pkg/*/*/*.whl")
    assert answer.data == there.read_bytes()
    sidecar = client.get(path + ".metadata")
    assert sidecar.mimetype == "text/plain"
    assert sidecar.data.startswith(b"Metadata-Version")


def test_ranges(client: Client) -> None:
    path = wheel_path(client)
    whole = client.get(path).data
    for asked, there in [("0-9", whole[:10]), ("10-", whole[10:]), ("-7", whole[-7:]), ("5-5", whole[5:6])]:
        part = client.get(path, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.data) == (206, there)
        assert part.headers["Content-Range"].endswith(f"/{len(whole)}")
        assert part.content_length == len(there)
    beyond = client.get(path, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == f"bytes */{len(whole)}"
    for whole_instead in ("bytes=0-1,5-6", "lines=1-2", "bytes=x"):
        assert client.get(path, headers={"Range": whole_instead}).status_code in {200, 416}
    assert client.get(path, headers={"Range": "bytes=0-1,5-6"}).data == whole


def test_conditional_requests(client: Client) -> None:
    for path in (wheel_path(client), PAGE):
        tag = client.get(path).headers["ETag"]
        same = client.get(path, headers={"If-None-Match": tag})
        assert (same.status_code, same.data) == (304, b"")
        assert same.headers["ETag"] == tag
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    stale = client.get(wheel_path(client), headers={"Range": "bytes=0-4", "If-Range": '"other"'})
    assert stale.status_code == 200


def test_html_and_json_are_two_states(client: Client) -> None:
    tag = client.get(PAGE, headers={"Accept": "text/html"}).headers["ETag"]
    answer = client.get(PAGE, headers={"Accept": JSON_TYPE, "If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.mimetype == JSON_TYPE


def test_a_page_that_is_replaced_has_another_tag(tmp_path: Path) -> None:
    tags = set()
    for n in (1, 2):
        publish(Folder(tmp_path / "i"), [read_candidate(make_wheel(tmp_path / str(n), "demo", f"1.{n}+cpu"))])
        answer = Client(Application(tmp_path / "i")).get("/release/cpu/demo/")
        assert answer.text.count("<a ") == n
        tags.add(answer.headers["ETag"])
    assert len(tags) == 2


def test_head_says_the_same_and_sends_nothing(client: Client) -> None:
    for path in (wheel_path(client), PAGE, "/", "/nothing"):
        head, whole = client.head(path), client.get(path)
        assert head.data == b""
        assert head.status_code == whole.status_code
        assert head.headers["Content-Length"] == str(len(whole.data))
        assert head.mimetype == whole.mimetype


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_reads(client: Client, method: str) -> None:
    answer = client.open(PAGE, method=method)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/nightly/cu130/demo-pkg", PAGE),
        ("/nightly/cu130", "/nightly/cu130/"),
        ("/nightly/cu130/Demo_Pkg/", PAGE),
        ("/nightly/cu130/demo.pkg", PAGE),
        ("/nightly/cu130/DEMO--pkg/", PAGE),
    ],
)
def test_redirects_to_the_name_as_it_is_normalised(client: Client, asked: str, target: str) -> None:
    answer = client.get(asked)
    assert answer.status_code == 301
    assert "//" not in answer.headers["Location"]
    assert answer.headers["Location"].startswith((".", ".."))
    assert urljoin("http://host" + asked, answer.headers["Location"]) == "http://host" + target
    assert client.get(target).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/nightly/cu130/torch/", "/nightly/cu130/Torch/", "/files/", "/files/demo-pkg/", "/nightly//cu130/",
     "/nightly/cu130/demo-pkg/index.html/", "/" + "a" * 5000, "/a/" * 500, "/nightly/cu130/Demo_Pkg/index.json/x"],
)  # fmt: skip
def test_what_is_not_there_is_404_with_a_way_back(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in {404, 301}
    if answer.status_code == 404:
        assert b"<a href=" in answer.data


HOSTILE = [
    "/.index/note", "/.index/", "/../outside.txt", "/..%2foutside.txt", "/%2e%2e/outside.txt", "/%2e%2e%2foutside.txt",
    "/files/../../outside.txt", "/files/..%2F..%2foutside.txt", "/files/%2e%2e/%2e%2e/outside.txt", "/..%5coutside.txt",
    "/..\\outside.txt", "/leaves", "/files/up/outside.txt", "/files/up/index-too/x.txt", "/files/hidden/note",
    "/../index-too/x.txt", "/%2eindex/note", "/.index%2fnote", "//.index/note", "/./.index/note", "/files/up/", "/loop",
    "/pipe", "/nightly/%2e%2e/.index/note", "/%00", "/index.html%00.png", "/nightly/cu130/..%2f..%2f.index/note",
    "//etc/passwd", "/files//../.index/note",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_outside_and_nothing_hidden(client: Client, path: str) -> None:
    answer = raw(client, path)
    assert answer.status_code == 404
    assert SECRET not in answer.text
    assert "root:" not in answer.text


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["..", ".", "", ".index", "note", "outside.txt", "files", "up", "hidden", "leaves", "%2e%2e", "%2f",
             "index-too", "x.txt", "nightly", "cu130", "demo-pkg", "Demo_Pkg", "%5c", "%00", "\\",
             "é", "%ff", "same", "pipe"]
        ),
        max_size=6,
    ),
    st.sampled_from(["/", "%2f", "//", "%5c"]),
)  # fmt: skip
@example(["files", "same"], "/")
def test_no_way_of_writing_a_path_leads_out(client: Client, parts: list[str], between: str) -> None:
    answer = raw(client, "/" + between.join(parts))
    assert answer.status_code in {200, 301, 404}
    assert SECRET not in answer.text
    assert not answer.headers.get("Location", "./").startswith(("/", "http"))


def raw(client: Client, path: str) -> TestResponse:
    """As it comes over the wire: the client itself must not tidy it up."""
    told = unquote_to_bytes(path.encode()).decode("latin-1")
    answer = client.open(
        "/", environ_overrides={"PATH_INFO": told, "REQUEST_URI": path.encode().decode("latin-1")}
    )
    assert isinstance(answer, TestResponse)
    return answer


def test_a_link_that_stays_inside_is_followed(client: Client) -> None:
    path = wheel_path(client)
    assert client.get(path.replace("/files/demo-pkg/", "/files/same/")).data == client.get(path).data


def test_a_folder_that_is_no_index_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text(SECRET)
    with pytest.raises(NotInIndex) as caught:
        Server(tmp_path)
    assert "index publish" in caught.value.next
    with pytest.raises(NotInIndex, match="no folder"):
        Server(tmp_path / "none")
    with pytest.raises(NotInIndex, match="no folder"):
        Server(tmp_path / "diary.txt")


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            Server(folder, port=port)
    assert "in use" in caught.value.why
    assert "--port" in caught.value.next
    with pytest.raises(SettingsError):
        Server(folder, host="203.0.113.7")
    with pytest.raises(SettingsError):
        Server(folder, host="no such host")


@pytest.fixture
def running(folder: Path) -> Iterator[tuple[Server, list[str]]]:
    lines: list[str] = []
    server = Server(folder, log=lines.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server, lines
    server.stop()
    thread.join(10)


def test_over_the_wire(running: tuple[Server, list[str]]) -> None:
    server, lines = running
    assert server.url.startswith("http://127.0.0.1:")
    with requests.Session() as session:
        session.trust_env = False
        assert len(session.get(server.url).raw.headers.getlist("Date")) == 1
        page = session.get(server.url + "nightly/cu130/Demo_Pkg", headers={"Accept": PIP})
        assert page.json()["name"] == "demo-pkg"
        wheel = urljoin(page.url, page.json()["files"][0]["url"])
        assert session.get(wheel, headers={"Range": "bytes=0-3"}).content == b"PK\x03\x04"
    assert any(line.endswith(" 206 bytes=0-3") for line in lines)
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(b"GET /\x1b[31m HTTP/1.0\r\n\r\n")
        assert b"404" in wire.recv(100)
    assert not any("\x1b" in line for line in lines)


def test_one_client_that_says_nothing_holds_nobody_up(
    running: tuple[Server, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    server, lines = running
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"GET / HT")
        assert requests.get(server.url, timeout=10).status_code == 200
        silent.shutdown(socket.SHUT_WR)
        assert b"400" in silent.recv(1000)
    assert any(line.endswith("400") for line in lines)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--json", "-q"]])
def test_the_command_says_its_address_and_ends_when_told(
    folder: Path, number: signal.Signals, options: list[str]
) -> None:
    command = [sys.executable, "-m", "vllm_builder", "index", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        while options and not said.rstrip().endswith("}"):
            said += process.stdout.readline()
        url = json.loads(said)["url"] if options else said.strip()
        assert requests.get(url, timeout=10).text == "<title>All</title>"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert ("GET / 200" in errors) is not bool(options)
    assert (f"NAME==VERSION --extra-index-url {url}nightly/cu130/" in errors) is not bool(options)


def test_the_command_refuses_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vllm_builder", "index", "serve", str(tmp_path / "none"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == NotInIndex.exit_code
    assert "index publish" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_the_configuration_for_nginx(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vllm_builder", "index", "serve", str(tmp_path), "--nginx-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == nginx_config(tmp_path, listen="80")


def test_an_empty_folder_may_become_an_index_while_it_is_served(tmp_path: Path) -> None:
    root = tmp_path / "index"
    root.mkdir()
    server = Server(root)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    client = Client(Application(root))
    assert client.get("/").status_code == 404
    publish(Folder(root), [read_candidate(make_wheel(tmp_path, version="1.0+cpu"))])
    assert client.get("/release/cpu/demo/").status_code == 200
    server.stop()
    thread.join(10)


def test_the_configuration_for_nginx_names_the_folder(tmp_path: Path) -> None:
    text = nginx_config(tmp_path / "my index", listen="127.0.0.1:8123")
    assert f'root "{tmp_path}/my index";' in text
    assert "listen 127.0.0.1:8123;" in text
    assert "@" not in text
    with pytest.raises(SettingsError):
        nginx_config(Path('/srv/a"; include /etc/passwd; "'))
