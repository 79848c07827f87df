"""Where the bytes of a wheel come from: a file here; :mod:`vllm_builder.wheelfile.remote` has the other kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from vllm_builder.errors import WheelError

CHUNK: Final = 1 << 18
"""Bytes that are read, inflated and handed on at a time."""


class Unreachable(WheelError):
    """The bytes cannot be had: the server, the network or the disk fails, and the wheel itself may be sound."""


class Source(Protocol):
    """Random access to the bytes of one file. Reading may be done by several threads at once."""

    size: int
    """In bytes."""

    @property
    def cheap(self) -> bool:
        """Small reads all over the file cost nothing; False where each may be a request."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes.

        Raises:
            WheelError: the file ends before, or cannot be read.
        """

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """Exactly ``length`` bytes in chunks, for one pass over much data.

        Raises:
            WheelError: the file ends before, or cannot be read.
        """

    def close(self) -> None: ...


class LocalFile:
    """A file on disk. Not mapped: a mapped file that somebody shortens would end the process."""

    cheap: Final = True

    def __init__(self, descriptor: int, name: str) -> None:
        """Takes the descriptor over. ``name`` is for messages."""
        self._descriptor = descriptor
        self._name = name
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            part = self._read(offset, length)
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        while offset < end:
            part = self._read(offset, min(CHUNK, end - offset))
            offset += len(part)
            yield part

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, offset: int, length: int) -> bytes:
        try:
            part = os.pread(self._descriptor, length, offset)
        except (OSError, OverflowError) as error:
            raise Unreachable(
                f"{self._name} cannot be read.", why=str(error), next="Check the disk that it lies on."
            ) from error
        if not part:
            raise WheelError(
                f"{self._name} is truncated.",
                why=f"Its byte {offset} is wanted and it ends before.",
                next="Copy or download it again.",
            )
        return part


def open_local(path: Path) -> LocalFile:
    """Open a file of this machine.

    Raises:
        WheelError: there is none, it is a folder, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        near = (
            "Check the path."
            if isinstance(error, FileNotFoundError)
            else "Check the path and its permissions."
        )
        raise WheelError(f"{path} cannot be opened.", why=f"{reason}.", next=near) from error
    import stat

    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise WheelError(
                f"{path} is a folder, not a wheel.",
                why="A wheel is one file whose name ends with .whl.",
                next="Name the .whl file itself.",
            )
        raise WheelError(f"{path} is no regular file.", next="Name a .whl file.")
    return LocalFile(descriptor, str(path))
