"""The content of members: inflated with ISA-L, held against what the directory states, never more than that.

ISA-L inflates about twice as fast as zlib, and both let other threads run meanwhile.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, cast

from isal import igzip_lib, isal_zlib

from vllm_builder.errors import WheelError
from vllm_builder.fs import os_errors
from vllm_builder.wheelfile.directory import STORED, Member
from vllm_builder.wheelfile.layout import data_offset
from vllm_builder.wheelfile.sources import CHUNK, Source

IN_MEMORY: Final = 64 << 20
"""Larger members are unpacked into a file, whose pages the system can write out."""
_OUT: Final = 4 * CHUNK
_DAMAGED: Final = cast(tuple[type[Exception], ...], (igzip_lib.IsalError, ValueError))
"""isal's own stub declares its exception as a value."""


def chunks(source: Source, member: Member, file: str) -> Iterator[bytes]:
    """The uncompressed bytes of a member, at most 1 MiB at a time.

    Size and checksum are held against the directory: who uses the bytes before the end uses them unchecked.

    Raises:
        WheelError
    """
    where = f"{file}: {member.name}"
    start = data_offset(source, member, file)
    crc = size = 0
    packed = source.stream(start, member.compressed)
    for chunk in packed if member.method == STORED else _inflated(packed, where):
        size += len(chunk)
        if size > member.size:
            raise WheelError(
                f"{where} is longer than the directory states ({member.size} bytes).",
                why="Its stated size is false, as a zip bomb's is.",
            )
        crc = isal_zlib.crc32(chunk, crc)
        yield chunk
    if size < member.size:
        raise WheelError(f"{where} is shorter than the directory states: {size} of {member.size} bytes.")
    if crc != member.crc:
        raise WheelError(
            f"{where} is damaged.",
            why=f"Its checksum is {crc:08x} instead of {member.crc:08x}.",
            next="Copy or download the wheel again.",
        )


def _inflated(packed: Iterator[bytes], where: str) -> Iterator[bytes]:
    inflater = isal_zlib.decompressobj(-15)
    try:
        for data in packed:
            chunk = inflater.decompress(data, _OUT)
            while chunk:
                yield chunk
                chunk = inflater.decompress(inflater.unconsumed_tail, _OUT) if not inflater.eof else b""
            if inflater.eof:
                break
    except _DAMAGED as error:
        raise WheelError(
            f"{where} is damaged: it cannot be inflated.",
            why=str(error),
            next="Copy or download the wheel again.",
        ) from error
    if not inflater.eof:
        raise WheelError(
            f"{where} is damaged: its data ends too early.", next="Copy or download the wheel again."
        )
    if inflater.unused_data or any(True for _ in packed):
        raise WheelError(f"{where} has bytes after the end of its data.")


@contextmanager
def mapped(source: Source, member: Member, file: str) -> Iterator[memoryview]:
    """The whole content of a member as a read-only buffer, valid inside the ``with``.

    Raises:
        WheelError
        NoSpace: there is no room for it in the folder for temporary files.
    """
    if not member.size:
        for _ in chunks(source, member, file):
            pass
        yield memoryview(b"")
        return
    area = _unpacked(source, member, file)
    view = memoryview(area).toreadonly()
    try:
        yield view
    finally:
        # What a caller still holds of it stays valid: the memory then goes with the last view.
        with suppress(BufferError):
            view.release()
            area.close()


def _unpacked(source: Source, member: Member, file: str) -> mmap.mmap:
    if member.size <= IN_MEMORY:
        area = mmap.mmap(-1, member.size)
        for chunk in chunks(source, member, file):
            area.write(chunk)
        return area
    with os_errors(f"unpacking {member.name}"):
        descriptor, path = tempfile.mkstemp(prefix="vllm-builder-")
        try:
            os.unlink(path)  # noqa: PTH108
            for chunk in chunks(source, member, file):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            return mmap.mmap(descriptor, member.size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        finally:
            os.close(descriptor)
