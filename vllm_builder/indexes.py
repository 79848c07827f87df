"""Package indexes, as pip and uv are configured on this machine.

Builds install with uv, which does not read pip's configuration, and most machines of a closed network are
configured for pip. So both are read here, without starting either, and handed on explicitly. Where several
say something about the same option, the last of this list wins, as pip and uv do it for their own part:

1. pip's files: global, user, site (``sys.prefix``, then ``VIRTUAL_ENV``), ``PIP_CONFIG_FILE``;
   in each file ``[global]``, ``[download]``, ``[install]``
2. uv's files: system, user, project
3. ``PIP_*`` variables
4. ``UV_*`` variables

An option that can be given several times (``extra-index-url``, ``find-links``) replaces the earlier value
as a whole. This module imports nothing but the standard library and the base model: it is on the way of
every command.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vllm_builder.errors import SettingsError
from vllm_builder.model import Free, Model


class Indexes(Model):
    """Where packages come from. None of it is part of a digest: the same file is the same file anywhere.

    URLs may carry credentials: show them only through :func:`redact` or :meth:`describe`.
    """

    index_url: Free[str] = ""
    """Empty: the default index of whichever library or tool is used."""
    extra_index_urls: Free[tuple[str, ...]] = ()
    find_links: Free[tuple[str, ...]] = ()
    """URLs of pages, absolute paths of folders or of HTML files."""
    no_index: Free[bool] = False
    origins: Free[tuple[str, ...]] = ()
    """Where each value was read, for display: ``"index-url: PIP_INDEX_URL"``."""
    cert: Free[str] = ""
    """CA bundle, a path."""
    client_cert: Free[str] = ""
    proxy: Free[str] = ""
    trusted_hosts: Free[tuple[str, ...]] = ()
    """``host`` or ``host:port`` whose certificate is not checked."""
    index_strategy: Free[str] = ""
    """uv's ``index-strategy`` where one was chosen; empty: the versions of all indexes compete, as in pip."""

    def describe(self) -> str:
        """One line for a person, without credentials."""
        if self.no_index:
            parts = ["no index"]
        else:
            parts = [redact(self.index_url) if self.index_url else "the default index"]
            parts += [redact(url) for url in self.extra_index_urls]
        parts += [redact(link) for link in self.find_links]
        return ", ".join(parts)


_SINGLE: Final = ("index-url", "no-index", "cert", "client-cert", "proxy", "index-strategy")
_MULTIPLE: Final = ("extra-index-url", "find-links", "trusted-host")
_TRUE: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE: Final = frozenset({"n", "no", "f", "false", "off", "0"})

_Found = dict[str, tuple[Any, str]]  # option -> (value, where it was read)


def read_indexes(environ: Mapping[str, str] = os.environ, *, cwd: Path | None = None) -> Indexes:
    """Read the index settings of pip and uv.

    Args:
        environ: the environment variables to honour; also decides where the user's files are (HOME, XDG_*).
        cwd: what relative paths are relative to, and where uv's project file is looked for.

    Raises:
        SettingsError: a configuration file cannot be parsed or a boolean is none.
    """
    cwd = Path(cwd or Path.cwd())
    found: _Found = {}
    for layer in (
        _pip_files(environ),
        _uv_files(environ, cwd),
        _pip_variables(environ),
        _uv_variables(environ),
    ):
        found.update(layer)

    def single(option: str) -> str:
        return str(found.get(option, ("", ""))[0])

    def several(option: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(found.get(option, ((), ""))[0]))

    index_url = _location(single("index-url"), environ, cwd)
    extra = (_location(url, environ, cwd) for url in several("extra-index-url"))
    return Indexes(
        index_url=index_url,
        extra_index_urls=tuple(url for url in extra if url != index_url),
        find_links=tuple(_location(link, environ, cwd) for link in several("find-links")),
        no_index=bool(found.get("no-index", (False, ""))[0]),
        origins=tuple(f"{option}: {found[option][1]}" for option in _SINGLE + _MULTIPLE if option in found),
        cert=_location(single("cert"), environ, cwd),
        client_cert=_location(single("client-cert"), environ, cwd),
        proxy=single("proxy"),
        trusted_hosts=several("trusted-host"),
        index_strategy=single("index-strategy"),
    )


def redact(url: str) -> str:
    """The URL with user name and password left out; anything else as it is."""
    if "@" not in url or "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credentials(url: str) -> tuple[str, str] | None:
    """User name and password that a URL carries, decoded."""
    if "@" not in url or "://" not in url:
        return None
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def uv_arguments(indexes: Indexes) -> tuple[list[str], dict[str, str]]:
    """Options and variables that make ``uv pip compile`` and ``uv pip install`` use ``indexes``.

    What carries credentials goes into the variables, so that it is not seen in the list of processes.

    Returns:
        The arguments, and the variables to set for uv's process.
    """
    arguments: list[str] = []
    variables: dict[str, str] = {}

    def give(option: str, variable: str, values: Iterable[str], separator: str) -> None:
        values = list(values)
        if any(credentials(value) for value in values):
            variables[variable] = separator.join(values)
        else:
            for value in values:
                arguments.extend((option, value))

    if indexes.no_index:
        arguments.append("--no-index")
    else:
        give("--default-index", "UV_DEFAULT_INDEX", filter(None, [indexes.index_url]), " ")
        give("--index", "UV_INDEX", indexes.extra_index_urls, " ")
    give("--find-links", "UV_FIND_LINKS", indexes.find_links, ",")
    arguments += ["--index-strategy", indexes.index_strategy or "unsafe-best-match"]
    for host in indexes.trusted_hosts:
        arguments += ["--allow-insecure-host", host]
    if indexes.cert:
        variables["SSL_CERT_FILE"] = indexes.cert
    if indexes.client_cert:
        variables["SSL_CLIENT_CERT"] = indexes.client_cert
    if indexes.proxy:
        variables["ALL_PROXY"] = indexes.proxy
    return arguments, variables


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
    home = _home(environ)
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


def _pip_files(environ: Mapping[str, str]) -> _Found:
    # pip first lets a later file override an earlier one section by section, and only then a command's
    # section the global one.
    sections: dict[str, _Found] = {"global": {}, "download": {}, "install": {}}
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
    found: _Found = {}
    for section in sections.values():
        found.update(_pip_values((o, v, where) for o, (v, where) in section.items()))
    return found


def _pip_variables(environ: Mapping[str, str]) -> _Found:
    return _pip_values(
        (_normal(name.removeprefix("PIP_")), value, name)
        for name, value in environ.items()
        if name.startswith("PIP_")
    )


def _pip_values(items: Iterable[tuple[str, str | None, str]]) -> _Found:
    found: _Found = {}
    for option, value, where in items:
        if not value:  # pip takes an empty value for none
            continue
        if option == "no-index":
            found[option] = (_boolean(value, option, where), where)
        elif option in _MULTIPLE:
            found[option] = (value.split(), where)
        elif option in _SINGLE and option != "index-strategy":
            found[option] = (value, where)
    return found


# uv ---------------------------------------------------------------------------------------------
def _uv_variables(environ: Mapping[str, str]) -> _Found:
    found: _Found = {}

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


def _uv_files(environ: Mapping[str, str], cwd: Path) -> _Found:
    found: _Found = {}
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


def _location(value: str, environ: Mapping[str, str], cwd: Path) -> str:
    """A URL as it is; a path made absolute."""
    if not value or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", value):
        return value
    if value == "~" or value.startswith("~/"):
        value = f"{_home(environ)}{value[1:]}"
    return os.path.normpath(cwd / value)


def _paths(value: str | None, default: str) -> list[str]:
    return [path for path in (value or default).split(os.pathsep) if path]


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _xdg_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config")
