"""Wheels made on the spot: honest ones, and zip files of which any field can be a lie."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "demo-1.0-cp38-abi3-linux_x86_64.whl"
INFO = "demo-1.0.dist-info"
METADATA = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Dist: torch==2.7.0\nRequires-Python: >=3.9\n\nText\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: cp38-abi3-linux_x86_64\n"


@dataclass
class Entry:
    """A member as it is written; what is None is computed honestly. ``local_*`` are the fields of the local header."""

    name: str | bytes
    data: bytes = b""
    method: int = 8
    flags: int = 0
    mode: int = 0o100644
    size: int | None = None
    compressed: int | None = None
    crc: int | None = None
    packed: bytes | None = None
    offset: int | None = None
    disk: int = 0
    stamp: tuple[int, int] = (0, 0x21)
    extra: bytes = b""
    local_name: bytes | None = None
    local_size: int | None = None
    local_crc: int | None = None
    local_extra: bytes = b""
    before: bytes = b""
    after: bytes = b""
    hidden: bool = False
    """In the file, but not in its directory."""


def deflate(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_bytes(
    entries: list[Entry], *, prefix: bytes = b"", gap: bytes = b"", suffix: bytes = b"", comment: bytes = b"",
    count: int | None = None, zip64: bool = False,
) -> bytes:  # fmt: skip
    """A zip file. ``gap`` lies before the directory, ``suffix`` behind the end."""
    out, central = bytearray(prefix), bytearray()
    number = 0
    for entry in entries:
        out += entry.before
        raw = entry.name if isinstance(entry.name, bytes) else entry.name.encode()
        flags = entry.flags | (0x800 if not raw.isascii() and isinstance(entry.name, str) else 0)
        packed = (
            entry.packed
            if entry.packed is not None
            else deflate(entry.data)
            if entry.method == 8
            else entry.data
        )
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        compressed = len(packed) if entry.compressed is None else entry.compressed
        local_raw = raw if entry.local_name is None else entry.local_name
        told = (
            crc if entry.local_crc is None else entry.local_crc,
            compressed,
            size if entry.local_size is None else entry.local_size,
        )
        if entry.flags & 8:
            told = (0, 0, 0)
        offset = len(out) if entry.offset is None else entry.offset
        head = (20, flags, entry.method, *entry.stamp)
        out += struct.pack("<4s5H3L2H", b"PK\3\4", *head, *told, len(local_raw), len(entry.local_extra))
        out += local_raw + entry.local_extra + packed + entry.after
        if not entry.hidden:
            number += 1
            central += struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 0x314, *head, crc, compressed, size, len(raw), len(entry.extra), 0,
                entry.disk, 0, entry.mode << 16, offset,
            ) + raw + entry.extra  # fmt: skip
    out += gap
    start, number = len(out), number if count is None else count
    out += central
    if zip64:
        at = len(out)
        out += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, len(central), start)
        out += struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
        out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, len(comment))
    else:
        out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(central), start, len(comment))
    return bytes(out + comment + suffix)


def record_of(files: Mapping[str, bytes], info: str) -> bytes:
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    return ("\n".join([*rows, f"{info}/RECORD,,"]) + "\n").encode()


def wheel_entries(
    files: Mapping[str, bytes] | None = None,
    *,
    info: str = INFO,
    metadata: str = METADATA,
    wheel: str = WHEEL,
    record: bytes | None = None,
    modes: Mapping[str, int] | None = None,
) -> list[Entry]:
    """The members of an honest wheel."""
    files = dict({"demo/__init__.py": b"x = 1\n" * 50} if files is None else files)
    files |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
    files[f"{info}/RECORD"] = record_of(files, info) if record is None else record
    return [Entry(name, data, mode=(modes or {}).get(name, 0o100644)) for name, data in files.items()]


def write_wheel(folder: Path, name: str = NAME, **options: object) -> Path:
    path = folder / name
    path.write_bytes(zip_bytes(wheel_entries(**options)))  # type: ignore[arg-type]
    return path
