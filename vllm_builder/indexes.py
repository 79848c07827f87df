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

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

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


def read_indexes(environ: Mapping[str, str] = os.environ, *, cwd: Path | None = None) -> Indexes:
    """Read the index settings of pip and uv.

    Args:
        environ: the environment variables to honour; also decides where the user's files are (HOME, XDG_*).
        cwd: what relative paths are relative to, and where uv's project file is looked for.

    Raises:
        SettingsError: a configuration file cannot be parsed or a boolean is none.
    """
    from vllm_builder.indexfiles import MULTIPLE, SINGLE, home_folder, settings_found

    cwd = Path(cwd or Path.cwd())
    home = home_folder(environ)
    found = settings_found(environ, cwd)

    def single(option: str) -> str:
        return str(found.get(option, ("", ""))[0])

    def several(option: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(found.get(option, ((), ""))[0]))

    index_url = _location(single("index-url"), home, cwd)
    extra = (_location(url, home, cwd) for url in several("extra-index-url"))
    return Indexes(
        index_url=index_url,
        extra_index_urls=tuple(url for url in extra if url != index_url),
        find_links=tuple(_location(link, home, cwd) for link in several("find-links")),
        no_index=bool(found.get("no-index", (False, ""))[0]),
        origins=tuple(f"{option}: {found[option][1]}" for option in SINGLE + MULTIPLE if option in found),
        cert=_location(single("cert"), home, cwd),
        client_cert=_location(single("client-cert"), home, cwd),
        proxy=single("proxy"),
        trusted_hosts=several("trusted-host"),
        index_strategy=single("index-strategy"),
    )


def redact(url: str) -> str:
    """The URL without credentials; anything else as it is. The user of an ``ssh://`` URL is no secret."""
    parts = _parts(url)
    if parts is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "ssh" and parts.username:
        host = f"{parts.username}@{host}"
    return urlunsplit(parts._replace(netloc=host))


def credentials(url: str) -> tuple[str, str] | None:
    """User name and password that a URL carries, decoded."""
    parts = _parts(url)
    if parts is None or parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def _parts(url: str) -> SplitResult | None:
    if "@" not in url or "://" not in url:
        return None
    try:
        return urlsplit(url)
    except ValueError:  # no URL after all
        return None


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


def _location(value: str, home: Path, cwd: Path) -> str:
    """A URL as it is; a path made absolute."""
    if not value or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", value):
        return value
    if value == "~" or value.startswith("~/"):
        value = f"{home}{value[1:]}"
    return os.path.normpath(cwd / value)
