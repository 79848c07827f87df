"""Reading the configuration files and variables of pip and uv, for :mod:`vllm_builder.indexes`."""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from vllm_builder.errors import SettingsError
from vllm_builder.indexes import credentials

SINGLE: Final = ("index-url", "no-index", "cert", "client-cert", "proxy", "index-strategy")
MULTIPLE: Final = ("extra-index-url", "find-links", "trusted-host")
_TRUE: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE: Final = frozenset({"n", "no", "f", "false", "off", "0"})

Found = dict[str, tuple[Any, str]]  # option -> (value, where it was read)


def settings_found(environ: Mapping[str, str], cwd: Path) -> Found:
    """All options that are set anywhere, each with the value that wins and where it stands.

    Raises:
        SettingsError
    """
    found: Found = {}
    for layer in (
        _pip_files(environ),
        _uv_files(environ, cwd),
        _pip_variables(environ),
        _uv_variables(environ),
    ):
        found.update(layer)
    return found


# pip --------------------------------------------------------------------------------------------
class _PipParser(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return _normal(optionstr)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def pip_config_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that pip would read, in its order: a later one overrides an earlier one."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    home = home_folder(environ)
    if sys.platform == "darwin":
        folders = [Path("/Library/Application Support/pip")]
        user = home / "Library/Application Support/pip"
        if not user.is_dir():
            user = home / ".config/pip"
    else:
        folders = [
            Path(folder) / "pip" for folder in _paths(environ.get("XDG_CONFIG_DIRS"), default="/etc/xdg")
        ]
        folders.append(Path("/etc"))
        user = _xdg_home(environ) / "pip"
    files = [folder / "pip.conf" for folder in folders]
    if not (chosen and Path(chosen).exists()):
        files += [home / ".pip" / "pip.conf", user / "pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if environ.get("VIRTUAL_ENV"):
        files.append(Path(environ["VIRTUAL_ENV"]) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return list(dict.fromkeys(files))


def _pip_files(environ: Mapping[str, str]) -> Found:
    # pip first lets a later file override an earlier one section by section, and only then a command's
    # section the global one.
    sections: dict[str, Found] = {"global": {}, "download": {}, "install": {}}
    for path in pip_config_files(environ):
        if not path.is_file():
            continue
        parser = _PipParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error
        for name, into in sections.items():
            if parser.has_section(name):
                into.update({option: (value, str(path)) for option, value in parser.items(name)})
    found: Found = {}
    for section in sections.values():
        found.update(_pip_values((o, v, where) for o, (v, where) in section.items()))
    return found


def _pip_variables(environ: Mapping[str, str]) -> Found:
    return _pip_values(
        (_normal(name.removeprefix("PIP_")), value, name)
        for name, value in environ.items()
        if name.startswith("PIP_")
    )


def _pip_values(items: Iterable[tuple[str, str | None, str]]) -> Found:
    found: Found = {}
    for option, value, where in items:
        if not value:  # pip takes an empty value for none
            continue
        if option == "no-index":
            found[option] = (_boolean(value, option, where), where)
        elif option in MULTIPLE:
            found[option] = (value.split(), where)
        elif option in SINGLE and option != "index-strategy":
            found[option] = (value, where)
    return found


# uv ---------------------------------------------------------------------------------------------
def _uv_variables(environ: Mapping[str, str]) -> Found:
    found: Found = {}

    def take(option: str, variable: str, value: Any) -> None:
        if value:
            found[option] = (value, variable)

    take("index-url", "UV_INDEX_URL", environ.get("UV_INDEX_URL", "").strip())
    default = environ.get("UV_DEFAULT_INDEX", "").strip()
    take("index-url", "UV_DEFAULT_INDEX", _named(default, environ))
    extra = [_named(url, environ) for url in environ.get("UV_INDEX", "").split()]
    legacy = environ.get("UV_EXTRA_INDEX_URL", "").split()
    variables = [name for name, urls in (("UV_INDEX", extra), ("UV_EXTRA_INDEX_URL", legacy)) if urls]
    take("extra-index-url", ", ".join(variables), extra + legacy)
    links = [link.strip() for link in environ.get("UV_FIND_LINKS", "").split(",")]
    take("find-links", "UV_FIND_LINKS", [link for link in links if link])
    if environ.get("UV_NO_INDEX"):
        value = _boolean(environ["UV_NO_INDEX"], "no-index", "UV_NO_INDEX")
        found["no-index"] = (value, "UV_NO_INDEX")
    take("index-strategy", "UV_INDEX_STRATEGY", environ.get("UV_INDEX_STRATEGY", "").strip())
    take("trusted-host", "UV_INSECURE_HOST", environ.get("UV_INSECURE_HOST", "").split())
    take("cert", "SSL_CERT_FILE", environ.get("SSL_CERT_FILE", ""))
    return found


def _named(value: str, environ: Mapping[str, str]) -> str:
    """``name=url`` -> url, with the credentials that uv takes from ``UV_INDEX_<NAME>_*``."""
    match = re.match(r"([A-Za-z0-9._-]+)=(.+)", value)
    return _with_credentials(match[1], match[2], environ) if match else value


def _with_credentials(name: str, url: str, environ: Mapping[str, str]) -> str:
    key = re.sub(r"[^A-Z0-9]", "_", name.upper())
    user = environ.get(f"UV_INDEX_{key}_USERNAME", "")
    password = environ.get(f"UV_INDEX_{key}_PASSWORD", "")
    if not (user or password) or "://" not in url or credentials(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{quote(user, '')}:{quote(password, '')}@{parts.netloc}"))


def _uv_tables(environ: Mapping[str, str], cwd: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """uv's settings tables, the weakest first."""
    if environ.get("UV_CONFIG_FILE"):
        yield from _toml(Path(environ["UV_CONFIG_FILE"]))
        return
    if environ.get("UV_NO_CONFIG", "").lower() in _TRUE:
        return
    system = [Path(folder) / "uv/uv.toml" for folder in _paths(environ.get("XDG_CONFIG_DIRS"), "/etc/xdg")]
    for path in (*system, Path("/etc/uv/uv.toml")):
        tables = list(_toml(path))
        if tables:  # uv takes the first that there is
            yield from tables
            break
    yield from _toml(_xdg_home(environ) / "uv/uv.toml")
    for folder in (cwd, *cwd.parents):
        tables = list(_toml(folder / "uv.toml")) or list(_toml(folder / "pyproject.toml"))
        if tables:
            yield from tables
            return


def _toml(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError):
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.name == "pyproject.toml":  # some other project's, none of our business
            return
        raise _unreadable(path, error) from error
    if path.name == "pyproject.toml":
        tool = table.get("tool", {})
        if "uv" not in tool:
            return
        table = tool["uv"]
    if isinstance(table, dict):
        yield path, table


def _uv_files(environ: Mapping[str, str], cwd: Path) -> Found:
    found: Found = {}
    for path, whole in _uv_tables(environ, cwd):
        pip = whole.get("pip", {})
        where = str(path)
        for table in (whole, pip if isinstance(pip, dict) else {}):
            default, extra = "", []
            for index in table.get("index", ()):
                if not isinstance(index, dict) or not index.get("url") or index.get("explicit"):
                    continue
                url = _with_credentials(str(index.get("name", "")), str(index["url"]), environ)
                if index.get("default"):
                    default = url
                else:
                    extra.append(url)
            default = default or str(table.get("index-url", ""))
            extra += [str(url) for url in table.get("extra-index-url", ())]
            links = [str(link) for link in table.get("find-links", ())]
            hosts = [str(host) for host in table.get("allow-insecure-host", ())]
            for option, value in (
                ("index-url", default),
                ("extra-index-url", extra),
                ("find-links", links),
                ("trusted-host", hosts),
                ("index-strategy", str(table.get("index-strategy", ""))),
            ):
                if value:
                    found[option] = (value, where)
            if isinstance(table.get("no-index"), bool):
                found["no-index"] = (table["no-index"], where)
    return found


# Both -------------------------------------------------------------------------------------------
def _boolean(value: str, option: str, where: str) -> bool:
    word = value.strip().lower()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise SettingsError(
        f"{option} in {where} is {value!r}, which is neither yes nor no.", next="Write yes or no there."
    )


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"{path} cannot be read.",
        why=" ".join(str(error).split()),
        next="Correct that file: the package indexes are read from it.",
    )


def _paths(value: str | None, default: str) -> list[str]:
    return [path for path in (value or default).split(os.pathsep) if path]


def home_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _xdg_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or home_folder(environ) / ".config")
