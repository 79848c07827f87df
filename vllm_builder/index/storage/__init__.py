"""Places where an index can lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from vllm_builder.errors import SettingsError, did_you_mean
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_HALF: Final = re.compile(r"(?i)(s3|gs|az|https?):/?(?!/)(.*)")
_HOST: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*:\d{2,5}(?:/|$)")
_SCHEMES: Final = ("s3", "gs", "az", "memory", "file")
_EXTRA: Final = "pip install 'vllm-builder[objects]'"
_memory: dict[str, Any] = {}
"""Indexes in memory by name: they live as long as the process."""


def open_storage(to: str, *, client: ClientConfig | None = None, retry: RetryConfig | None = None) -> Storage:
    """The storage that ``--to`` names.

    Args:
        to: a folder, ``file:///folder``, ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix`` (the
            account is in the environment), or ``memory://name`` (for trying out).
        client: how long an object store is waited for.
        retry: what is tried again with it.

    Raises:
        SettingsError: it is none of these, holds credentials, or what it needs is not installed or set.
        StorageFailed: the store's configuration cannot be read.
    """
    _not_an_address(to)
    found = _SCHEME.match(to)
    if found is None:
        if not to.strip():
            raise SettingsError("--to names no place.", next="Name a folder, or s3://bucket/prefix.")
        return Folder(Path(to).expanduser().absolute())
    scheme = found[1].lower()
    if scheme in {"http", "https"}:
        raise SettingsError(
            f"{_shown(to)} is a server, not a place for the files of an index.",
            why="A server keeps its own index: wheels can be published to it, and nothing else can be done there.",
            next="Name a folder, or s3://bucket/prefix.",
        )
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"No index can lie at {found[1]}:// addresses{did_you_mean(scheme, _SCHEMES)}.",
            next="Name a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.",
        )
    parts = urlsplit(to)
    if scheme == "file":
        return _file(parts.netloc, unquote(parts.path))
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError(
            f"The address {scheme}://{parts.hostname or ''} holds more than a bucket and a prefix.",
            why="What stands in an address ends up in logs; credentials come from the environment or a profile.",
            next=f"Write {scheme}://bucket/prefix.",
        )
    if not parts.netloc:
        raise SettingsError(f"{to!r} names no bucket.", next=f"Write {scheme}://bucket/prefix.")
    return _objects(scheme, parts.netloc, _prefix(to, parts.path), client, retry)


def _not_an_address(to: str) -> None:
    """
    Raises:
        SettingsError: it looks like an address with something missing, and is no folder that there is.
    """
    scheme = _HALF.match(to)
    host = _HOST.match(to)
    if (scheme is None and host is None) or Path(to).expanduser().exists():
        return
    meant = f"{scheme[1].lower()}://{scheme[2]}" if scheme is not None else f"https://{to}"
    raise SettingsError(
        f"{to!r} looks like an address, and is none.",
        why="It lacks a part, or is a folder that there is not yet.",
        next=f"Write {meant}, or ./{to} where a folder is meant.",
    )


def _file(host: str, path: str) -> Folder:
    if host not in {"", "localhost"} or not path:
        raise SettingsError(
            f"file://{host} names another machine.", next="Write file:///folder, with three slashes."
        )
    return Folder(Path(path))


def _prefix(to: str, path: str) -> str:
    prefix = path.strip("/")
    if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
        raise SettingsError(
            f"{to!r} has a prefix that is no path.", next="Write it as in s3://bucket/team/index."
        )
    return prefix


def _objects(
    scheme: str, bucket: str, prefix: str, client: ClientConfig | None, retry: RetryConfig | None
) -> Storage:
    url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    try:
        import obstore.store as stores

        from vllm_builder.index.storage.objects import CLIENT, RETRY, Objects

        if scheme == "s3":
            from vllm_builder.index.storage.s3 import open_s3

            return open_s3(bucket, prefix, url, client=client or CLIENT, retry=retry or RETRY)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{scheme}:// addresses need {error.name}, which is not installed.", next=f"{_EXTRA}"
        ) from error
    if scheme == "memory":
        return Objects(_memory.setdefault(f"{bucket}/{prefix}", stores.MemoryStore()), url)
    try:
        if scheme == "gs":
            return Objects(
                stores.GCSStore(
                    bucket,
                    prefix=prefix or None,
                    client_options=client or CLIENT,
                    retry_config=retry or RETRY,
                ),
                url,
            )
        return Objects(
            stores.AzureStore(
                bucket, prefix=prefix or None, client_options=client or CLIENT, retry_config=retry or RETRY
            ),
            url,
        )
    except _store_errors() as error:
        raise SettingsError(
            f"{url} cannot be opened.",
            why=str(error).splitlines()[0][:300],
            next="Set what the store's own tools need: GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME "
            "and a key.",
        ) from error


def _store_errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return (BaseError, ValueError)


def _shown(url: str) -> str:
    """Without credentials: no user, no query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
