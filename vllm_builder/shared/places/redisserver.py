"""A shared cache on a Redis server (or one that speaks its protocol: Valkey, KeyDB, Dragonfly)."""

from __future__ import annotations

from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vllm_builder.shared.places.base import ANSWER, CONNECT, Refused, Unreachable

_PREFIX: Final = "vllm-builder:"
_REFUSALS: Final = {
    "OOM": "its memory is full (OOM)",
    "NOAUTH": "it wants a password (NOAUTH)",
    "WRONGPASS": "it does not accept the password (WRONGPASS)",
    "NOPERM": "it does not permit that (NOPERM)",
    "READONLY": "it is read-only (READONLY)",
    "MISCONF": "it cannot write to its disk (MISCONF)",
}


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
    word = text.split(" ")[0].rstrip(":")
    if isinstance(error, redis.AuthenticationError):
        lacking = text.startswith("Authentication required")
        return Refused(_REFUSALS.get(word) or _REFUSALS["NOAUTH" if lacking else "WRONGPASS"])
    if isinstance(error, redis.ResponseError):
        known = _REFUSALS.get(word) or (_REFUSALS["OOM"] if "maxmemory" in text else None)
        return Refused(known) if known else Unreachable(f"it answers with an error ({word[:20]})")
    if isinstance(error, redis.TimeoutError):
        return Unreachable("no answer in time")
    for said in ("Name or service not known", "Temporary failure in name resolution", "Connection refused"):
        if said in text:
            return Unreachable(said[0].lower() + said[1:])
    return Unreachable(f"the connection broke ({type(error).__name__})")
