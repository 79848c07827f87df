"""A wheel is read and written again: the same members give the same bytes, whoever packed them before.

Order: the package by name, then ``.dist-info`` (the wheel specification wants it at the end), RECORD last. All
members have one time and one of two modes, and are compressed by zlib at one level. What zlib makes of the same bytes
can differ between its versions and its relatives (zlib-ng), so it is named in the result. ISA-L would be
faster, but chooses its code, and with it its output, by the processor.

Most of a hot-fix's members are those of the wheel before it. What was compressed there is copied where RECORD says on
both sides that the content is the same: the same compressor would give the same bytes, and takes longer than all the rest.
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
from itertools import islice
from pathlib import Path
from typing import Final

from vllm_builder.errors import WheelError
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.wheelfile import Wheel
from vllm_builder.wheelfile.directory import DEFLATED
from vllm_builder.wheelfile.sources import CHUNK
from vllm_builder.wheelfile.wheel import RECORD_LIMIT

COMPRESSOR: Final = f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level 6"
_CHUNK: Final = 1 << 20
_PLAIN, _EXECUTABLE = 0o644, 0o755
_UNIX: Final = 3


class Earlier:
    """A wheel that :func:`write` wrote with the same compressor, for its compressed members."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._hashes = _hashes_of(wheel)

    def holds(self, name: str, hashed: str, size: int) -> bool:
        """Whether it has the member with this content. ``hashed`` is as RECORD files spell it, without ``sha256=``."""
        member = self._wheel.members.get(name)
        return (
            member is not None
            and member.method == DEFLATED
            and member.size == size
            and self._hashes.get(name) == hashed
        )

    def packed(self, name: str) -> Iterator[bytes]:
        return self._wheel.packed(name)


class _Ready:
    """In place of zlib's compressor: hands over what was compressed before. About as much as it is given at a time,
    so that no large member has to lie in memory."""

    def __init__(self, packed: Iterator[bytes]) -> None:
        self._packed = packed

    def compress(self, data: bytes) -> bytes:
        return b"".join(islice(self._packed, 1 + len(data) // CHUNK))

    def flush(self) -> bytes:
        return b"".join(self._packed)


class Members:
    """The files of a wheel, some of them replaced. Large ones are read when they are written."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._new: dict[str, bytes] = {}
        self._stated = _hashes_of(wheel)
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

    def stated(self, name: str) -> str:
        """The hash that RECORD states of a member; empty where it states none, or the member was replaced."""
        return "" if name in self._new else self._stated.get(name, "")

    def size(self, name: str) -> int:
        return len(self._new[name]) if name in self._new else self._wheel.members[name].size

    def executable(self, name: str) -> bool:
        return name not in self._new and self._wheel.members[name].executable


def write(members: Members, out: Path, *, epoch: int, earlier: Earlier | None = None) -> None:
    """Write the wheel whole or not at all. RECORD is made anew; signatures of the old one are left out.

    Args:
        earlier: where members may lie compressed already; it does not change the bytes.

    Raises:
        WheelError: a member is not what the wheel's directory or its RECORD says.
        NoSpace, NotWritable
    """
    make_dir(out.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    with os_errors(f"writing {out}"):
        try:
            with temporary.open("wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    _fill(archive, members, epoch, earlier)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def _fill(archive: zipfile.ZipFile, members: Members, epoch: int, earlier: Earlier | None) -> None:
    record = f"{members.dist_info}/RECORD"
    without = {record, f"{record}.jws", f"{record}.p7s"}
    hashes: dict[str, tuple[str, int]] = {}
    for name in sorted(members.names() - without, key=lambda name: (_late(name, members), name)):
        hashed, size = members.stated(name), members.size(name)
        ready = earlier.packed(name) if earlier and hashed and earlier.holds(name, hashed, size) else None
        hashes[name] = _add(
            archive, name, members.chunks(name), size, members.executable(name), epoch, ready=ready
        )
        if ready is not None and hashes[name][0] != hashed:
            raise WheelError(
                f"{name} is not what RECORD of the wheel says that setup.py wrote.",
                next="Run the same command again; the disk may have a fault.",
            )
    content = _record(hashes, record)
    _add(archive, record, (content,), len(content), False, epoch)


def _late(name: str, members: Members) -> bool:
    return name.startswith(f"{members.dist_info}/")


def _add(
    archive: zipfile.ZipFile,
    name: str,
    chunks: Iterable[bytes],
    size: int,
    executable: bool,
    epoch: int,
    *,
    ready: Iterator[bytes] | None = None,
) -> tuple[str, int]:
    """Write one member; ``ready`` is its content as it was compressed before."""
    info = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | (_EXECUTABLE if executable else _PLAIN)) << 16
    info.file_size = size
    digest, written = hashlib.sha256(), 0
    with archive.open(info, "w") as writer:
        if ready is not None:
            # zipfile goes on counting and computes the checksum of what it is given.
            writer._compressor = _Ready(ready)  # type: ignore[attr-defined]
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


def _hashes_of(wheel: Wheel) -> dict[str, str]:
    """Member -> SHA-256 as RECORD states it. Lines that are not understood state nothing."""
    text = wheel.read(f"{wheel.dist_info}/RECORD", limit=RECORD_LIMIT).decode("utf-8", "replace")
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error:
        return {}
    return {row[0]: row[1].removeprefix("sha256=") for row in rows if len(row) == 3 and "sha256=" in row[1]}


def _record(hashes: Mapping[str, tuple[str, int]], record: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, (digest, size) in hashes.items():
        writer.writerow((name, f"sha256={digest}", size))
    writer.writerow((record, "", ""))
    return text.getvalue().encode()
