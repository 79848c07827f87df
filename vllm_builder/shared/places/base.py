"""What a shared cache needs of the place where it lies: small entries under keys, read and written whole."""

from __future__ import annotations

from typing import Final, Protocol

CONNECT: Final = 1.0
"""Seconds that connecting may take."""
ANSWER: Final = 5.0
"""Seconds without a byte after which a connection counts as dead."""


class Unreachable(Exception):
    """It does not answer, or says that it cannot now; the text says how and holds no credentials."""


class Refused(Exception):
    """It answered that it will not (no permission, full, read-only): asking again would change nothing."""


class Place(Protocol):
    """Several threads use one. Keys look like ``v1/wheel/ab/cdef``; no method blocks for ever by its own doing, and
    the caller stops waiting anyway."""

    def read(self, key: str, limit: int) -> bytes | None:
        """An entry; of one that is longer than ``limit`` one byte more than that. None where there is none.

        Raises:
            Unreachable, Refused
        """

    def write(self, key: str, data: bytes) -> None:
        """Put an entry there, whole or not at all, in place of what is there.

        Raises:
            Unreachable, Refused
        """
