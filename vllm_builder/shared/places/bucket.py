"""A shared cache in an object store: S3 and what speaks it, Google Cloud Storage, Azure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from vllm_builder.errors import BuilderError, NotWritable, SettingsError
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.objects import Objects
from vllm_builder.shared.places.base import ANSWER, CONNECT, Refused, Unreachable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=CONNECT),
    "timeout": timedelta(seconds=6 * ANSWER),
}
_RETRY: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=ANSWER)}
"""What fails is counted by who asks."""


class Bucket:
    """See :class:`.base.Place`. Credentials come from where the store's own tools have them."""

    def __init__(self, url: str) -> None:
        try:
            storage = open_storage(url, client=_CLIENT, retry=_RETRY)
        except BuilderError as error:
            raise Refused(_text(error)) from error
        assert isinstance(storage, Objects)
        self._objects = storage

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            found = self._objects.read(key, limit=limit + 1)
        except BuilderError as error:
            raise _failure(error) from error
        return None if found is None else found.data[: limit + 1]

    def write(self, key: str, data: bytes) -> None:
        try:
            self._objects.overwrite(key, data)
        except BuilderError as error:
            raise _failure(error) from error


def _failure(error: BuilderError) -> Refused | Unreachable:
    kind = Refused if isinstance(error, NotWritable | SettingsError) else Unreachable
    return kind(_text(error))


def _text(error: BuilderError) -> str:
    text = (error.why or error.what).rstrip(".")
    return text[:1].lower() + text[1:300]
