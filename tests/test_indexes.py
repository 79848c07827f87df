"""pip's and uv's index settings; pip itself is the judge of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_builder.errors import SettingsError
from vllm_builder.indexes import Indexes, credentials, read_indexes, redact, uv_arguments
from vllm_builder.indexfiles import pip_config_files

Write = Callable[[str, str], Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


@pytest.fixture
def read(tmp_path: Path, home: Path) -> Callable[..., Indexes]:
    """Read with a home and XDG folders of the test's own."""

    def with_variables(**variables: str) -> Indexes:
        return read_indexes(environment(tmp_path, **variables), cwd=tmp_path)

    return with_variables


def environment(root: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(root / "home"), "XDG_CONFIG_DIRS": str(root / "xdg"), **variables}


@pytest.fixture(autouse=True)
def _only_files_of_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own /etc/pip.conf and the like stay out."""

    def inside(environ: dict[str, str]) -> list[Path]:
        return [path for path in pip_config_files(environ) if path.is_relative_to(tmp_path)]

    monkeypatch.setattr("vllm_builder.indexfiles.pip_config_files", inside)


def test_nothing_configured(read: Callable[..., Indexes]) -> None:
    found = read()
    assert found == Indexes()
    assert found.describe() == "the default index"
    assert uv_arguments(found) == (["--index-strategy", "unsafe-best-match"], {})


def test_pip_file_in_all_its_spellings(read: Callable[..., Indexes], write: Write) -> None:
    path = write(
        "home/.config/pip/pip.conf",
        "[global]\nindex_url = https://a.example/simple\nextra-index-url =\n    https://b.example/simple\n"
        "    https://c.example/simple\n[install]\nfind-links = /wheels  more\nno-index = no\n"
        "[download]\ntrusted-host = a.example\n[list]\nindex-url = https://wrong.example\n",
    )
    found = read()
    assert found.index_url == "https://a.example/simple"
    assert found.extra_index_urls == ("https://b.example/simple", "https://c.example/simple")
    assert found.find_links == ("/wheels", str(path.parents[3] / "more"))
    assert found.trusted_hosts == ("a.example",)
    assert f"index-url: {path}" in found.origins


def test_later_files_and_variables_win(read: Callable[..., Indexes], write: Write) -> None:
    write(
        "xdg/pip/pip.conf", "[global]\nindex-url = https://global\nfind-links = /global\ncert = /global.pem\n"
    )
    write("home/.pip/pip.conf", "[global]\nindex-url = https://legacy\n")
    assert read().index_url == "https://legacy"
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://user\n")
    assert read().index_url == "https://user"
    write("venv/pip.conf", "[global]\nindex-url = https://site\n")
    venv = str(write("venv/x", "").parent)
    assert read(VIRTUAL_ENV=venv).index_url == "https://site"
    chosen = str(write("chosen.conf", "[global]\nindex-url = https://chosen\n"))
    # With a file of one's own choice pip leaves the user's file out.
    found = read(PIP_CONFIG_FILE=chosen)
    assert (found.index_url, found.find_links, found.cert) == ("https://chosen", ("/global",), "/global.pem")
    assert read(PIP_CONFIG_FILE=chosen, PIP_INDEX_URL="https://variable").index_url == "https://variable"
    assert read(PIP_CONFIG_FILE=chosen, PIP_INDEX_URL="").index_url == "https://chosen"
    assert read(PIP_CONFIG_FILE=os.devnull) == Indexes()


def test_command_section_beats_global_of_a_later_file(read: Callable[..., Indexes], write: Write) -> None:
    write("xdg/pip/pip.conf", "[install]\nindex-url = https://install\n")
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://global\n")
    assert read().index_url == "https://install"


@pytest.mark.parametrize(
    "variables",
    [
        {"PIP_INDEX_URL": "https://v", "PIP_EXTRA_INDEX_URL": "https://x  https://y"},
        {"PIP_FIND_LINKS": "/a /b", "PIP_NO_INDEX": "1"},
        {},
    ],
)
def test_pip_reads_the_same(
    read: Callable[..., Indexes], write: Write, tmp_path: Path, variables: dict[str, str]
) -> None:
    pytest.importorskip("pip")
    write(
        "xdg/pip/pip.conf", "[global]\nindex-url = https://one\nfind_links = /w\n[install]\nno-index = true\n"
    )
    write(
        "home/.config/pip/pip.conf",
        "[global]\nINDEX-URL = https://two\nextra-index-url = https://e\n  https://f\n",
    )
    program = (
        "from pip._internal.commands import create_command\n"
        "o, _ = create_command('install').parser.parse_args([])\n"
        "print([o.index_url, o.extra_index_urls, o.find_links, bool(o.no_index)])"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment(tmp_path, **variables),
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    found = read(**variables)
    mine = [found.index_url, list(found.extra_index_urls), list(found.find_links), found.no_index]
    assert str(mine) == done.stdout.strip()


def test_pip_knows_the_same_files(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "XDG_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"],
        env=clean | environment(tmp_path),
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    told = [
        line.strip().partition(", exists:")[0] for line in done.stdout.splitlines() if ", exists:" in line
    ]
    assert sorted(str(path) for path in pip_config_files(environment(tmp_path))) == sorted(told)


# uv ---------------------------------------------------------------------------------------------
def test_uv_variables_win(read: Callable[..., Indexes], write: Write) -> None:
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://pip\nfind-links = /pip\n")
    assert read(UV_INDEX_URL="https://old").index_url == "https://old"
    found = read(
        UV_INDEX_URL="https://old",
        UV_DEFAULT_INDEX="https://uv",
        UV_INDEX="named=https://n https://m",
        UV_EXTRA_INDEX_URL="https://e",
        PIP_INDEX_URL="https://pip-variable",
        UV_INDEX_STRATEGY="first-index",
    )
    assert found.index_url == "https://uv"
    assert found.extra_index_urls == ("https://n", "https://m", "https://e")
    assert found.find_links == ("/pip",)
    assert "index-url: UV_DEFAULT_INDEX" in found.origins
    assert uv_arguments(found)[0][-2:] == ["--index-strategy", "first-index"]
    assert read(UV_FIND_LINKS="/a,/b", UV_NO_INDEX="true").find_links == ("/a", "/b")
    assert read(UV_NO_INDEX="true").no_index


def test_uv_files(read: Callable[..., Indexes], write: Write) -> None:
    write("xdg/uv/uv.toml", 'find-links = ["/system"]\nindex-url = "https://system"\n')
    write(
        "home/.config/uv/uv.toml",
        '[[index]]\nname = "main"\nurl = "https://main"\ndefault = true\n'
        '[[index]]\nname = "my-more"\nurl = "https://more"\n'
        '[[index]]\nname = "torch"\nurl = "https://explicit"\nexplicit = true\n',
    )
    found = read(UV_INDEX_MY_MORE_USERNAME="me", UV_INDEX_MY_MORE_PASSWORD="p@ss")
    assert found.index_url == "https://main"
    assert found.extra_index_urls == ("https://me:p%40ss@more",)
    assert found.find_links == ("/system",)
    write("pyproject.toml", '[tool.uv]\nindex-url = "https://project"\n[tool.uv.pip]\nno-index = true\n')
    assert read().index_url == "https://project"
    assert read().no_index
    assert read(UV_NO_CONFIG="1") == Indexes()


# Both -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("home/.config/pip/pip.conf", "index-url = no section\n"),
        ("home/.config/pip/pip.conf", "[global]\nno-index = perhaps\n"),
        ("home/.config/uv/uv.toml", "index-url = \n"),
    ],
)
def test_broken_files_are_named(read: Callable[..., Indexes], write: Write, name: str, text: str) -> None:
    path = write(name, text)
    with pytest.raises(SettingsError) as caught:
        read()
    assert str(path) in caught.value.what
    assert caught.value.next


def test_relative_places_and_home(read: Callable[..., Indexes], tmp_path: Path) -> None:
    found = read(PIP_FIND_LINKS="wheels ~/more file:///x", PIP_INDEX_URL="./simple")
    assert found.find_links == (str(tmp_path / "wheels"), str(tmp_path / "home/more"), "file:///x")
    assert found.index_url == str(tmp_path / "simple")


def test_secrets_stay_out_of_arguments_and_of_sight() -> None:
    secret = "https://me:s%40crt@host.example:8443/simple"
    indexes = Indexes(
        index_url=secret,
        extra_index_urls=("https://open.example/simple",),
        find_links=("https://u:crt@links.example/x",),
        trusted_hosts=("host.example",),
        cert="/ca.pem",
        proxy="http://proxy:3128",
    )
    arguments, variables = uv_arguments(indexes)
    assert "crt" not in " ".join(arguments)
    assert arguments[:2] == ["--index", "https://open.example/simple"]
    assert variables == {
        "UV_DEFAULT_INDEX": secret,
        "UV_FIND_LINKS": "https://u:crt@links.example/x",
        "SSL_CERT_FILE": "/ca.pem",
        "ALL_PROXY": "http://proxy:3128",
    }
    assert "crt" not in indexes.describe()
    assert redact(secret) == "https://host.example:8443/simple"
    assert credentials(secret) == ("me", "s@crt")
    assert redact("git@host:path/x.git") == "git@host:path/x.git"
    assert redact("ssh://git:pw@host/x.git") == "ssh://git@host/x.git"
    assert redact("http://me@[broken/") == "http://me@[broken/"
    assert redact("/path/with@sign") == "/path/with@sign"


def test_uv_understands_what_it_is_given(tmp_path: Path) -> None:
    """One wheel in a folder, no index: uv must find it through these arguments alone."""
    import zipfile

    from uv import find_uv_bin

    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "thing-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.5\n")
        wheel.writestr(
            "thing-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("thing-1.5.dist-info/RECORD", "")
    arguments, variables = uv_arguments(Indexes(no_index=True, find_links=(str(links),)))
    done = subprocess.run(
        [find_uv_bin(), "pip", "compile", "-", "-q", "--no-header", "--no-config", "--python", sys.executable, *arguments],
        env={**os.environ, **variables, "UV_CACHE_DIR": str(tmp_path / "cache")},
        input="thing", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "thing==1.5" in done.stdout
