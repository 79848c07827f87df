"""Who uploads, who is told, and that nobody else sees it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_helpers import Publisher, refused
from upload_servers import PASSWORD, Answer, BadServer

from vllm_builder.errors import SettingsError, StorageFailed
from vllm_builder.index.upload.address import check_address, is_open
from vllm_builder.index.upload.credentials import find_credentials

Wheels = Callable[..., Path]
NAME = "demo-1.0-py3-none-any.whl"


class Captured:
    """Everything that a run lets out."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.log = logging.StreamHandler(self.text)

    def __enter__(self) -> Captured:
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(contextlib.redirect_stdout(self.text))
        self.stack.enter_context(contextlib.redirect_stderr(self.text))
        root = logging.getLogger()
        self.level = root.level
        root.addHandler(self.log)
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *problem: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self.log)
        root.setLevel(self.level)
        self.stack.close()


@pytest.mark.parametrize("status", [200, 401, 403, 500, 302])
def test_the_password_is_nowhere_to_be_seen(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str, status: int
) -> None:
    basic = base64.b64encode(f"team:{PASSWORD}".encode()).decode()
    publisher.environ |= {"TWINE_USERNAME": "team", "TWINE_PASSWORD": PASSWORD}
    # A server that repeats what it was told.
    said = f"you said {PASSWORD} and {basic}"
    bad.answers = [Answer(status, said, keep=status == 200, headers={"Location": "/elsewhere"})]
    with Captured() as out:
        try:
            seen = publisher(wheels(), to=url).model_dump_json()
        except StorageFailed as error:
            seen = json.dumps(error.as_dict()) + repr(error) + str(error.__cause__)
    everything = seen + publisher.told + out.text.getvalue()
    assert bad.asked[-1][1] == f"Basic {basic}"
    assert "you said" not in everything or "***" in everything
    for secret in (PASSWORD, basic, "hunter2"):
        assert secret not in everything


def test_nothing_is_printed(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad.answers = [Answer(503), Answer(keep=True)]
    publisher(wheels(), to=url)
    assert capfd.readouterr() == ("", "")
    assert sys.stdout is not None


@pytest.mark.parametrize(
    "address",
    [
        "https://team:hunter2@wheels.example/x/",
        "https://hunter2@wheels.example/",
        "https://team:hun/ter2@wheels.example/",
        "HTTPS://team:hunter2@[bad/",
    ],
)
@pytest.mark.parametrize("name", ["to", "simple_url"])
def test_an_address_with_a_password_is_refused_and_not_repeated(
    publisher: Publisher, wheels: Wheels, address: str, name: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        publisher(wheels(), **{"to": "https://wheels.example/", name: address})
    said = str(caught.value.as_dict()) + publisher.told
    assert "ter2" not in said
    assert "environment" in said


@given(st.text(max_size=12), st.text(max_size=12), st.sampled_from(["", ":80", "/x", "?q", "#f", "["]))
def test_no_address_with_credentials_gets_through(user: str, password: str, rest: str) -> None:
    address = f"https://{user}:{password}hunter2@wheels.example{rest}"
    with pytest.raises(SettingsError) as caught:
        check_address(address)
    assert "hunter2" not in str(caught.value.as_dict())


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = check_address(text)
    except SettingsError:
        return
    assert found.startswith(("http://", "https://"))
    assert "@" not in found


@pytest.mark.parametrize(
    ("address", "open_"),
    [
        ("http://wheels.example/", True),
        ("https://wheels.example/", False),
        ("http://127.0.0.1:3141/", False),
        ("http://localhost/", False),
        ("http://[::1]:80/", False),
        ("http://127.0.0.1.example/", True),
    ],
)
def test_where_a_password_travels_for_all_to_read(address: str, open_: bool) -> None:
    assert is_open(address) == open_


def test_credentials_go_to_the_server_alone(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    """A page may link to a file elsewhere, which is fetched where the page names no hash."""
    publisher.environ |= {"TWINE_USERNAME": "team", "TWINE_PASSWORD": PASSWORD}
    other, wheel = BadServer(), wheels()
    with other.serving() as elsewhere:
        link = f'<!DOCTYPE html><html><body><a href="{elsewhere}{NAME}">{NAME}</a></body></html>'
        bad.page = Answer(200, link, "text/html")
        refused(publisher, wheel, url)
    assert other.asked
    assert {who for _, who in other.asked} == {None}
    assert all(who is not None for _, who in bad.asked)


URL = "https://wheels.example/team/"


@pytest.mark.parametrize(
    ("environ", "user", "password"),
    [
        (
            {
                "VLLM_BUILDER_PUBLISH_USERNAME": "a",
                "VLLM_BUILDER_PUBLISH_PASSWORD": "b",
                "TWINE_USERNAME": "c",
            },
            "a",
            "b",
        ),
        ({"VLLM_BUILDER_PUBLISH_TOKEN": "t", "TWINE_USERNAME": "a", "TWINE_PASSWORD": "b"}, "__token__", "t"),
        ({"TWINE_USERNAME": "a", "TWINE_PASSWORD": ""}, "a", ""),
        ({"TWINE_PASSWORD": "t"}, "__token__", "t"),
        ({"UV_PUBLISH_TOKEN": "t"}, "__token__", "t"),
        ({"UV_PUBLISH_USERNAME": "a", "UV_PUBLISH_PASSWORD": "b"}, "a", "b"),
        ({"TWINE_USERNAME": "", "TWINE_PASSWORD": ""}, "", ""),
        ({}, "", ""),
    ],
)
def test_variables(
    environ: dict[str, str], user: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyring.get_credential", lambda *a: None)
    found = find_credentials(URL, environ)
    assert (found.user, found.password) == (user, password)
    assert "password=" not in repr(found)


def test_a_user_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyring.get_credential", lambda *a: None)
    with pytest.raises(SettingsError, match="no password"):
        find_credentials(URL, {"TWINE_USERNAME": "a"})


def test_files_and_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyring.credentials import SimpleCredential

    environ = {"HOME": str(tmp_path)}
    monkeypatch.setattr("keyring.get_credential", lambda *a: None)
    (tmp_path / ".netrc").write_text("machine wheels.example login n password from-netrc\n")
    assert find_credentials(URL, environ).password == "from-netrc"
    assert find_credentials("https://other.example/", environ).password == ""
    ring = {URL: SimpleCredential("k", "from-keyring")}
    monkeypatch.setattr("keyring.get_credential", lambda place, user: ring.get(place))
    assert find_credentials(URL, environ).password == "from-keyring"
    assert find_credentials(URL, environ | {"UV_PUBLISH_USERNAME": "k"}).password == "from-keyring"
    (tmp_path / ".pypirc").write_text(
        "[distutils]\nindex-servers = ours\n"
        f"[ours]\nrepository = {URL}\nusername = p\npassword = from-pypirc\n"
    )
    assert find_credentials(URL, environ).password == "from-pypirc"
    assert find_credentials("https://wheels.example/other/", environ).password == "from-netrc"


@pytest.mark.parametrize("file", [".pypirc", ".netrc"])
def test_a_file_that_cannot_be_read_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr("keyring.get_credential", lambda *a: None)
    (tmp_path / file).write_text("password hunter2\nmachine x hunter2\n")
    with pytest.raises(SettingsError) as caught:
        find_credentials(URL, {"HOME": str(tmp_path)})
    assert "hunter2" not in str(caught.value.as_dict())
