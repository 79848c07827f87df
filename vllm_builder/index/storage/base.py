"""What an index needs of the place where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Token = str
"""Names one state of an object: an ETag, or a hash. Good for one :meth:`Storage.replace`."""

IMMUTABLE = "public, max-age=31536000, immutable"
FRESH = "no-cache"
"""Kept by caches, but asked for at each use: pages are small, and a stale one is a fault."""


class Exists(Exception):
    """There is an object under the key already."""


class Changed(Exception):
    """The object is not in the state that the token names."""


class Altered(Exception):
    """A file that was to be put in is not, or no longer, the one whose hash was given; nothing was put in."""


@dataclass(frozen=True, slots=True)
class Blob:
    """``data`` may be only the beginning of it, where a limit was given."""

    data: bytes
    token: Token


@dataclass(frozen=True, slots=True)
class Stat:
    """``size`` in bytes, ``modified`` in seconds since the epoch by the storage's clock."""

    key: str
    size: int
    modified: float


class Storage(Protocol):
    """A flat space of keys with create-only and compare-and-swap writes. Every write is whole or not at all.

    All methods raise classes of :mod:`vllm_builder.errors` (:class:`StorageFailed`, ``NotWritable``, ``NoSpace``) where the
    place refuses or cannot be reached; what can be tried again was tried again.
    """

    url: str
    """As a person names it; without credentials."""

    slash_keys: bool
    """Keys that end in ``/`` can be objects and are what a client asks for (S3): pages are put there, too."""

    at_once: int
    """How many writes may be under way together: more than one where a write is waiting for a server."""

    def read(self, key: str, *, limit: int | None = None) -> Blob | None:
        """None where there is none."""

    def stat(self, key: str) -> Stat | None: ...

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content, piece by piece.

        Raises:
            KeyError: there is none.
        """

    def create(
        self, key: str, data: bytes | Path, *, content_type: str, cache_control: str, sha256: str = ""
    ) -> None:
        """Args:
            sha256: what a file's bytes must hash to; of one that is changed while it is read nothing comes in.

        Raises:
            Exists: there is one, whatever its content.
            Altered: see ``sha256``.
        """

    def replace(
        self, key: str, data: bytes, *, content_type: str, cache_control: str, token: Token | None
    ) -> Token:
        """Put ``data`` in place of the state that ``token`` names; None: create.

        Where an answer was lost and the write is tried again, the same content is taken for one's own.

        Raises:
            Changed: somebody else was first. After a lost answer also: one's own write was, and then another's.
        """

    def content_type(self, key: str) -> str | None:
        """As what it is served; None where it is not there, or where it is for a web server to say (a folder)."""

    def delete(self, keys: Iterable[str]) -> None:
        """What is not there is no error."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """All keys below a prefix (a folder with its slash, or empty for all)."""
