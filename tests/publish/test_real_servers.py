"""A real devpi and a real pypiserver: uploaded to, and installed from by pip and uv."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from publish_helpers import Publisher
from upload_servers import PASSWORD, clean_environ, devpi, pypiserver
from uv import find_uv_bin

from vllm_builder.errors import PublishRefused, StorageFailed

Wheels = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


@pytest.fixture(scope="module")
def devpi_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with devpi(tmp_path_factory.mktemp("devpi")) as url:
        yield url


@pytest.fixture(scope="module")
def pypiserver_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pypiserver(tmp_path_factory.mktemp("pypiserver")) as url:
        yield url


@pytest.fixture
def team(publisher: Publisher) -> Publisher:
    publisher.environ |= {"VLLM_BUILDER_PUBLISH_USERNAME": "team", "VLLM_BUILDER_PUBLISH_PASSWORD": PASSWORD}
    return publisher


def installed(tool: str, index: str, what: str, folder: Path) -> str:
    """Install with nothing but that index; gives the module's text."""
    command: list[Any] = [sys.executable, "-m", "pip", "install", "--no-cache-dir"]
    if tool == "uv":
        command = [find_uv_bin(), "pip", "install", "--python", sys.executable, "--no-cache"]
    index_option = "--index-url" if tool == "pip" else "--default-index"
    environ = clean_environ(PIP_CONFIG_FILE="/dev/null", UV_NO_CONFIG="1")
    environ = {
        k: v for k, v in environ.items() if not k.startswith(("PIP_INDEX", "PIP_EXTRA", "UV_INDEX", "UV_DEF"))
    }
    run = subprocess.run(
        [*command, index_option, index, "--target", folder, "--no-deps", what],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return (folder / "demo" / "__init__.py").read_text()


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_devpi(team: Publisher, wheels: Wheels, devpi_url: str, tmp_path: Path, tool: str) -> None:
    version = {"pip": "1.0+cu130", "uv": "2.0+cu130"}[tool]
    wheel = wheels("demo", version, body=f"tool = {tool!r}\n")
    url = f"{devpi_url}/team/dev/"
    (one,) = team(wheel, to=url).wheels
    assert (one.outcome, one.channels, one.variant) == ("published", (), "")
    assert PASSWORD not in team.told
    assert team(wheel, to=url).wheels[0].outcome == "unchanged"
    with pytest.raises(PublishRefused, match="another file of the name"):
        team(wheels("demo", version, body="x = 2\n"), to=url)
    text = installed(tool, f"{url}+simple/", f"demo=={version}", tmp_path / "site")
    assert text == f"tool = {tool!r}\n"


def test_devpi_with_an_index_for_each_channel(team: Publisher, wheels: Wheels, devpi_url: str) -> None:
    url = f"{devpi_url}/team/{{channel}}/"
    wheel = wheels("demo", "3.0")
    first = team(wheel, to=url, channels=("nightly",)).wheels[0]
    assert (first.outcome, first.channels) == ("published", ("nightly",))
    both = team(wheel, to=url, channels=("nightly", "release")).wheels[0]
    assert (both.outcome, both.channels) == ("published", ("nightly", "release"))
    assert "team/release" in team.told
    assert "to http" in team.told
    assert team.told.count("Uploading") == 1
    by_itself = team(wheels("demo", "4.0.dev1"), to=url).wheels[0]
    assert by_itself.channels == ("nightly",)


def test_devpi_without_the_password(publisher: Publisher, wheels: Wheels, devpi_url: str) -> None:
    with pytest.raises(StorageFailed) as caught:
        publisher(wheels(version="9.0"), to=f"{devpi_url}/team/dev/")
    assert "No credentials were found" in caught.value.why
    assert "VLLM_BUILDER_PUBLISH_USERNAME" in caught.value.next
    publisher.environ |= {"TWINE_USERNAME": "team", "TWINE_PASSWORD": "wrong-but-secret"}
    with pytest.raises(StorageFailed) as caught:
        publisher(wheels(version="9.0"), to=f"{devpi_url}/team/dev/")
    assert "'team'" in caught.value.why
    assert "wrong-but-secret" not in str(caught.value.as_dict())


def test_devpi_at_an_index_that_is_not_there(team: Publisher, wheels: Wheels, devpi_url: str) -> None:
    with pytest.raises(StorageFailed) as caught:
        team(wheels(version="9.0"), to=f"{devpi_url}/team/nothing/")
    assert "404" in caught.value.why


def test_devpi_with_a_password_in_netrc(publisher: Publisher, wheels: Wheels, devpi_url: str) -> None:
    netrc = Path(publisher.environ["HOME"]) / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login team password {PASSWORD}\n")
    assert publisher(wheels(version="5.0"), to=f"{devpi_url}/team/dev").wheels[0].outcome == "published"


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pypiserver(
    publisher: Publisher, wheels: Wheels, pypiserver_url: str, tmp_path: Path, tool: str
) -> None:
    """It is asked for a project that it has not, and would send us to PyPI, where there is a `demo`."""
    version = {"pip": "1.0+cpu", "uv": "2.0+cpu"}[tool]
    wheel = wheels("demo", version, body=f"tool = {tool!r}\n")
    assert publisher(wheel, to=pypiserver_url).wheels[0].outcome == "published"
    assert publisher(wheel, to=pypiserver_url).wheels[0].outcome == "unchanged"
    with pytest.raises(PublishRefused):
        publisher(wheels("demo", version, body="x = 2\n"), to=pypiserver_url)
    text = installed(tool, f"{pypiserver_url}simple/", f"demo=={version}", tmp_path / "site")
    assert text == f"tool = {tool!r}\n"
