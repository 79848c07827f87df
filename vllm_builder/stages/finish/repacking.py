"""A wheel is read and written again: the same members give the same bytes, whoever packed them before.

Order: the package by name, then ``.dist-info`` (the wheel specification wants it at the end), RECORD last. All
members have one time and one of two modes, and are compressed by zlib at one level. What zlib makes of the same bytes
can differ between its versions and its relatives (zlib-ng), so it is named in the result. ISA-L would be
faster, but chooses its code, and with it its output, by the processor.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from vllm_builder.errors import WheelError
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.wheelfile import Wheel

COMPRESSOR: Final = f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level 6"
_CHUNK: Final = 1 << 20
_PLAIN, _EXECUTABLE = 0o644, 0o755
_UNIX: Final = 3


class Members:
    """The files of a wheel, some of them replaced. Large ones are read when they are written."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._new: dict[str, bytes] = {}
        self.dist_info = wheel.dist_info

    def names(self) -> set[str]:
        return {*self._wheel.members, *self._new}

    def read(self, name: str) -> bytes:
        """Raises WheelError where there is no such member."""
        return self._new[name] if name in self._new else self._wheel.read(name)

    def replace(self, name: str, content: bytes) -> None:
        self._new[name] = content

    def chunks(self, name: str) -> Iterable[bytes]:
        return (self._new[name],) if name in self._new else self._wheel.chunks(name)

    def size(self, name: str) -> int:
        return len(self._new[name]) if name in self._new else self._wheel.members[name].size

    def executable(self, name: str) -> bool:
        return name not in self._new and self._wheel.members[name].executable


def write(members: Members, out: Path, *, epoch: int) -> None:
    """Write the wheel whole or not at all. RECORD is made anew; signatures of the old one are left out.

    Raises:
        NoSpace, NotWritable
    """
    make_dir(out.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    with os_errors(f"writing {out}"):
        try:
            with temporary.open("wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    _fill(archive, members, epoch)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def _fill(archive: zipfile.ZipFile, members: Members, epoch: int) -> None:
    record = f"{members.dist_info}/RECORD"
    without = {record, f"{record}.jws", f"{record}.p7s"}
    hashes: dict[str, tuple[str, int]] = {}
    for name in sorted(members.names() - without, key=lambda name: (_late(name, members), name)):
        hashes[name] = _add(
            archive, name, members.chunks(name), members.size(name), members.executable(name), epoch
        )
    content = _record(hashes, record)
    _add(archive, record, (content,), len(content), False, epoch)


def _late(name: str, members: Members) -> bool:
    return name.startswith(f"{members.dist_info}/")


def _add(
    archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes], size: int, executable: bool, epoch: int
) -> tuple[str, int]:
    info = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | (_EXECUTABLE if executable else _PLAIN)) << 16
    info.file_size = size
    digest, written = hashlib.sha256(), 0
    with archive.open(info, "w") as writer:
        for chunk in _even(chunks):
            digest.update(chunk)
            written += writer.write(chunk)
    if written != size:
        raise WheelError(f"{name} has {written} bytes where the wheel's directory says {size}.")
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode(), written


def _even(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, so that the compressor is fed alike whoever packed the wheel before."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= _CHUNK:
            yield bytes(held[:_CHUNK])
            del held[:_CHUNK]
    if held:
        yield bytes(held)


def _record(hashes: Mapping[str, tuple[str, int]], record: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, (digest, size) in hashes.items():
        writer.writerow((name, f"sha256={digest}", size))
    writer.writerow((record, "", ""))
    return text.getvalue().encode()
