"""A shared cache on a Redis server (or one that speaks its protocol: Valkey, KeyDB, Dragonfly)."""

from __future__ import annotations

from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vllm_builder.shared.places.base import ANSWER, CONNECT, Refused, Unreachable

_PREFIX: Final = "vllm-builder:"
_REFUSALS: Final = (
    (redis.exceptions.OutOfMemoryError, "its memory is full (OOM)"),
    (redis.exceptions.NoPermissionError, "it does not permit that (NOPERM)"),
    (redis.exceptions.ReadOnlyError, "it is read-only (READONLY)"),
)
"""The client takes these words off the texts of errors."""
_WANTS: Final = "it wants a password (NOAUTH)"
_REJECTS: Final = "it does not accept the password (WRONGPASS)"


class Redis:
    """See :class:`.base.Place`."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self._client = redis.Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            # What every server speaks that calls itself Redis.
            protocol=2,
            socket_connect_timeout=CONNECT,
            socket_timeout=ANSWER,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            # A part of what is too long is enough to see that it is.
            found = self._client.getrange(_PREFIX + key, 0, limit)
            return found or None if isinstance(found, bytes) else None
        except (redis.RedisError, OSError) as error:
            raise _failure(error) from error

    def write(self, key: str, data: bytes) -> None:
        try:
            self._client.set(_PREFIX + key, data)
        except (redis.RedisError, OSError) as error:
            raise _failure(error) from error


def _failure(error: Exception) -> Refused | Unreachable:
    text = str(error)
    for kind, why in _REFUSALS:
        if isinstance(error, kind):
            return Refused(why)
    if isinstance(error, redis.AuthenticationError):
        return Refused(_WANTS if text.startswith("Authentication required") else _REJECTS)
    if isinstance(error, redis.ResponseError):
        word = text.split(" ")[0].rstrip(":")
        if word == "MISCONF":
            return Refused("it cannot write to its disk (MISCONF)")
        return Unreachable(f"it answers with an error ({word[:20]})")
    if isinstance(error, redis.TimeoutError):
        return Unreachable("no answer in time")
    for said in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if said in text:
            return Unreachable(said[0].lower() + said[1:])
    return Unreachable(f"the connection broke ({type(error).__name__})")
