"""The seal in front of every entry: it says which key the content belongs to, and that it is whole.

A seal is a line that names the kind, and 32 bytes over key and content: SHA-256, or HMAC-SHA256 with the secret of a
team (``VLLM_BUILDER_SHARED_CACHE_KEY``). The first finds what was damaged, cut short or put under another key; the second
also what somebody without the secret has made.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

_PLAIN: Final = b"vllm-builder 1 sha256\n"
_KEYED: Final = b"vllm-builder 1 hmac-sha256\n"
_SIZE: Final = 32
OVERHEAD: Final = len(_KEYED) + _SIZE
"""Bytes that a seal adds at most."""


class Broken(Exception):
    """An entry is not what was put in; the text says how that is known."""


def seal(key: str, content: bytes, secret: bytes = b"") -> bytes:
    """The entry to store under ``key``."""
    head = _KEYED if secret else _PLAIN
    return head + _over(key, content, secret) + content


def unseal(key: str, entry: bytes, secret: bytes = b"") -> bytes:
    """The content of an entry that was found under ``key``.

    Raises:
        Broken
    """
    head, other = (_KEYED, _PLAIN) if secret else (_PLAIN, _KEYED)
    if not entry.startswith(head):
        if entry.startswith(other):
            raise Broken(
                "it is not sealed with the key of this build" if secret else "it is sealed with a key"
            )
        raise Broken("it has no seal")
    found, content = entry[len(head) : len(head) + _SIZE], entry[len(head) + _SIZE :]
    if not hmac.compare_digest(found, _over(key, content, secret)):
        raise Broken("its seal is of other content")
    return content


def _over(key: str, content: bytes, secret: bytes) -> bytes:
    hasher = hmac.new(secret, digestmod="sha256") if secret else hashlib.sha256()
    hasher.update(key.encode() + b"\0")
    hasher.update(content)
    return hasher.digest()
