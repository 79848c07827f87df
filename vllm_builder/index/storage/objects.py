"""An index in an object store: conditional puts instead of locks.

Everything goes through ``obstore`` (S3 and what speaks it, Google Cloud Storage, Azure, memory), for which ``create`` is a
put with If-None-Match and ``replace`` one with If-Match. See :mod:`vllm_builder.index.storage.s3` for what only S3 has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vllm_builder.errors import StorageFailed
from vllm_builder.fs import os_errors
from vllm_builder.index.storage.base import FRESH, Altered, Blob, Changed, Exists, Stat, Token
from vllm_builder.index.storage.failures import failure

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CHUNK: Final = 8 << 20
_AT_ONCE: Final = 32 << 20
"""Bytes; larger files go up in parts."""
_DELETE: Final = 1000

RETRY: RetryConfig = {
    "max_retries": 5,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
"""What is tried again: connections that break, 429 and 5xx."""
CLIENT: ClientConfig = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(minutes=5)}


class Objects:
    """See :class:`vllm_builder.index.storage.base.Storage`.

    ``slash_keys`` is False on Google Cloud Storage and Azure: their web front ends serve ``index.html`` of a folder.
    """

    slash_keys = False

    def __init__(self, store: Any, url: str, secrets: tuple[str, ...] = ()) -> None:
        """Args:
        store: an ``obstore`` store whose prefix is the index.
        secrets: never shown, whatever a client says.
        """
        import obstore

        self._client = obstore
        self.at_once = 1 if url.startswith("memory:") else 16
        self._store = store
        self.url = url
        self._secrets = secrets

    def read(self, key: str, *, limit: int | None = None) -> Blob | None:
        options: Any = {} if limit is None else {"options": {"range": (0, limit)}}
        try:
            with self._errors(f"reading {key}"):
                found = self._client.get(self._store, checked_key(key), **options)
                return Blob(bytes(found.bytes()), token_of(found.meta))
        except FileNotFoundError:
            return None
        except StorageFailed as error:
            if limit is not None and re.search(r"\b416\b|range", error.why, re.I):
                # Of nothing there is no first part.
                return self.read(key)
            raise

    def stat(self, key: str) -> Stat | None:
        try:
            with self._errors(f"looking at {key}"):
                found = self._client.head(self._store, checked_key(key))
        except FileNotFoundError:
            return None
        return Stat(key, found["size"], found["last_modified"].timestamp())

    def content_type(self, key: str) -> str | None:
        try:
            with self._errors(f"looking at {key}"):
                found = self._client.get(self._store, checked_key(key), options={"head": True})
                return str(found.attributes.get("Content-Type", ""))
        except FileNotFoundError:
            return None

    def chunks(self, key: str) -> Iterator[bytes]:
        try:
            with self._errors(f"reading {key}"):
                for chunk in self._client.get(self._store, checked_key(key)).stream(min_chunk_size=1 << 20):
                    yield bytes(chunk)
        except FileNotFoundError:
            raise KeyError(key) from None

    def create(
        self, key: str, data: bytes | Path, *, content_type: str, cache_control: str, sha256: str = ""
    ) -> None:
        if isinstance(data, Path):
            with os_errors(f"reading {data}"):
                size = data.stat().st_size
            if size > _AT_ONCE:
                self._create_in_parts(key, data, sha256, _attributes(content_type, cache_control))
                return
            with os_errors(f"reading {data}"):
                data = data.read_bytes()
            if sha256 and hashlib.sha256(data).hexdigest() != sha256:
                raise Altered(key)
        try:
            self._put(key, data, "create", content_type, cache_control)
        except Changed:
            raise Exists(key) from None

    def replace(
        self, key: str, data: bytes, *, content_type: str, cache_control: str, token: Token | None
    ) -> Token:
        mode = "create" if token is None else json.loads(token)
        try:
            return self._put(key, data, mode, content_type, cache_control)
        except Changed:
            # Perhaps by an earlier try of our own, whose answer was lost.
            there = self.read(key)
            if there is not None and there.data == data:
                return there.token
            raise

    def overwrite(self, key: str, data: bytes) -> None:
        """Put ``data`` in place of whatever is there: for content that is checked by who reads it."""
        self._put(key, data, "overwrite", "application/octet-stream", FRESH)

    def delete(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        while some := [checked_key(key) for key in islice(left, _DELETE)]:
            try:
                with self._errors(f"deleting {some[0]}"):
                    self._client.delete(self._store, some)
            except FileNotFoundError as error:
                raise self._missing(error, f"deleting {some[0]}") from error

    def list(self, prefix: str) -> Iterator[Stat]:
        try:
            with self._errors(f"listing {prefix or 'everything'}"):
                for batch in self._client.list(self._store, prefix.rstrip("/") or None):
                    for one in batch:
                        yield Stat(one["path"], one["size"], one["last_modified"].timestamp())
        except FileNotFoundError as error:
            raise self._missing(error, f"listing {prefix}") from error

    def _put(self, key: str, data: bytes, mode: Any, content_type: str, cache_control: str) -> Token:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        doing = f"writing {key}"
        try:
            with self._errors(doing):
                return token_of(
                    self._client.put(
                        self._store,
                        checked_key(key),
                        data,
                        mode=mode,
                        attributes=_attributes(content_type, cache_control),
                    )
                )
        except (AlreadyExistsError, PreconditionError):
            raise Changed(key) from None
        except FileNotFoundError as error:
            # If-Match on what is gone, or no bucket at all.
            if mode != "create" and "NoSuchBucket" not in str(error):
                raise Changed(key) from None
            raise self._missing(error, doing) from error

    def _create_in_parts(self, key: str, path: Path, sha256: str, attributes: Any) -> None:
        """Not conditional: parts are put together without a condition. The key names the content by its hash, so that
        two who are at it at once write the same bytes."""
        if self.stat(key) is not None:
            raise Exists(key)

        def pieces() -> Iterator[bytes]:
            hashed = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    hashed.update(chunk)
                    yield chunk
            if sha256 and hashed.hexdigest() != sha256:
                raise Altered(key)

        try:
            with self._errors(f"writing {key}"):
                self._client.put(
                    self._store,
                    checked_key(key),
                    pieces(),
                    attributes=attributes,
                    chunk_size=_CHUNK,
                    max_concurrency=4,
                )
        except FileNotFoundError as error:
            raise self._missing(error, f"writing {key}") from error

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._missing(error, doing) from error
            raise
        except (BaseError, OSError, ValueError) as error:
            raise failure(error, doing, self.url, self._secrets) from error

    def _missing(self, error: BaseException, doing: str) -> StorageFailed:
        found = failure(error, doing, self.url, self._secrets)
        return StorageFailed(found.what, why=found.why, next=found.next)


def checked_key(key: str) -> str:
    parts = key.removesuffix("/").split("/")
    if any(part in {"", ".", ".."} or not part.isprintable() for part in parts):
        raise StorageFailed(f"{key!r} is no key of an index.", why="It would leave the index.")
    return key


def _attributes(content_type: str, cache_control: str) -> Any:
    return {"Content-Type": content_type, "Cache-Control": cache_control}


def token_of(meta: Any) -> Token:
    """S3 and Azure compare the ETag, Google the generation: both are kept."""
    return json.dumps({name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None})
