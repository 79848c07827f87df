"""Reading from bytes that may be anything: nothing outside of them, and every refusal says where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from struct import Struct
from typing import Any, Final, NoReturn

from vllm_builder.errors import WheelError

Data = bytes | bytearray | memoryview | mmap
"""What the readers take: any buffer of contiguous bytes."""
LARGEST_TABLE: Final = 256 << 20
"""Bytes of strings; torch 2.11 has 6 million."""
LONGEST_STRING: Final = 1 << 16
"""Bytes. The longest C++ symbol of torch 2.11 has 6 thousand."""


class Buffer:
    """A file's bytes. What lies outside raises :class:`WheelError`."""

    def __init__(self, view: memoryview, name: str) -> None:
        self._view = view
        self.name = name
        self.size = view.nbytes

    def unpack(self, form: Struct, offset: int, what: str) -> tuple[Any, ...]:
        """The fields of ``form`` at ``offset``."""
        self.hold(offset, form.size, what)
        return form.unpack_from(self._view, offset)

    def copy(self, offset: int, size: int, what: str) -> bytes:
        """``size`` bytes from ``offset`` on."""
        self.hold(offset, size, what)
        return bytes(self._view[offset : offset + size])

    def hold(self, offset: int, size: int, what: str) -> None:
        """Refuse a range that does not lie within the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            self.refuse(f"{what} lies at 0x{offset:x} with {size} bytes, beyond the end at 0x{self.size:x}")

    def refuse(self, why: str) -> NoReturn:
        raise WheelError(
            f"{self.name} cannot be read.",
            why=f"{why[:1].upper()}{why[1:]}.",
            next="If it was copied or downloaded, get it again; if a tool wrote it just so, please report it.",
        )


@contextmanager
def buffered(data: Data, name: str) -> Iterator[Buffer]:
    """Read from ``data``; afterwards a mapped file can be closed again."""
    with memoryview(data) as view, view.cast("B") as flat:
        yield Buffer(flat, name)


class Strings:
    """A string table. However often its strings are asked for, the work is bounded by the table's size.

    Strings may share their ends, and several symbols a name: real libraries take up to twice what they have, a hostile
    one is stopped at four times.
    """

    def __init__(self, buffer: Buffer, offset: int, size: int, what: str) -> None:
        self._buffer = buffer
        self._what = what
        if size > LARGEST_TABLE:
            buffer.refuse(f"{what} has {size} bytes of names")
        self._table = buffer.copy(offset, size, what)
        self._left = 4 * size + LONGEST_STRING

    def get(self, offset: int) -> bytes:
        """The string that begins at ``offset``, without its end mark."""
        end = self._table.find(b"\0", offset, offset + LONGEST_STRING)
        if end < 0:
            self._buffer.refuse(f"a string at {offset} of {self._what} has no end")
        self._left -= end - offset
        if self._left < 0:
            self._buffer.refuse(f"the strings of {self._what} overlap beyond reason")
        return self._table[offset:end]

    def text(self, offset: int) -> str:
        return decode(self.get(offset))


def decode(data: bytes) -> str:
    """Names are ASCII; what is not shows as ``\\xff``, so that every name can be printed and written as JSON."""
    return data.decode("utf-8", "backslashreplace")
