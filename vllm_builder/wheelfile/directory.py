"""The directory of a zip file, read strictly: what two readers could take in two ways is refused.

A wheel is installed by programs with readers of their own (pip, uv, others). Bytes before the first member or after
the end, sizes that disagree, a second directory: each of them lets one program see another wheel than the next one
does, and no build tool makes them. Layout after PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import Final

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile.sources import Source

MAX_MEMBERS: Final = 200_000
MAX_DIRECTORY: Final = 64 << 20
"""Bytes. torch's own wheel has 14,000 members and 2 MB of directory."""

STORED: Final = 0
DEFLATED: Final = 8
_METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "zstd",
    95: "xz",
    98: "PPMd",
}

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR = 0x0008
_UTF8 = 0x0800
_HARMLESS = 0x0006 | _DESCRIPTOR | _UTF8
"""Bits 1 and 2 say how hard deflate tried."""
_MOST16 = 0xFFFF
_MOST32 = 0xFFFFFFFF
_MARK = b"PK\x05\x06"


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the wheel. Sizes and offsets in bytes."""

    name: str
    size: int
    compressed: int
    crc: int
    method: int
    """0 stored, 8 deflated."""
    mode: int
    """Unix type and permission bits, ``0o100755``; 0 where the maker wrote none."""
    offset: int
    """Of its local header."""
    flags: int
    timestamp: tuple[int, int, int, int, int, int]
    """As written, local time of nowhere: year, month, day, hour, minute, second."""
    system: int
    """Where it was made: 0 MS-DOS, 3 Unix."""
    raw_name: bytes

    @property
    def executable(self) -> bool:
        return bool(self.mode & 0o111)

    @property
    def is_dir(self) -> bool:
        return self.name.endswith("/")

    @property
    def has_descriptor(self) -> bool:
        return bool(self.flags & _DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class Directory:
    members: tuple[Member, ...]
    """In the order of the directory; folders too."""
    offset: int
    """Where it begins, which is where the members end."""
    comment: bytes


def read_directory(source: Source, name: str) -> Directory:
    """Read the directory at the end of a zip file; ``name`` is for messages.

    Raises:
        WheelError: the file is no zip file, is truncated, or has something that no wheel has.
    """
    start, count, size, offset, comment = _end(source, name)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise WheelError(
            f"{name} claims {count} members and {size} bytes of directory: no wheel has as many.",
            why=f"More than {MAX_MEMBERS} members or {MAX_DIRECTORY} bytes are not read.",
        )
    if offset + size != start:
        gap = start - offset - size
        if gap > 0:
            raise WheelError(
                f"{name} has {gap} bytes that belong to nothing, before its first member or after its directory.",
                why="Programs disagree on what such a zip file holds: some skip the bytes, others refuse it.",
                next="Build the wheel again, or ask its maker to.",
            )
        raise WheelError(
            f"{name} is damaged: its directory lies outside of the file.",
            why=f"It should end at byte {offset + size}, and what follows it begins at byte {start}.",
            next="Copy or download it again.",
        )
    data = source.read_at(offset, size)
    members = []
    at = 0
    for _ in range(count):
        member, at = _member(data, at, name, offset)
        members.append(member)
    if at != len(data):
        raise WheelError(f"{name}: its directory holds more than the {count} members that it states.")
    return Directory(tuple(members), offset, comment)


def _end(source: Source, name: str) -> tuple[int, int, int, int, bytes]:
    """Start of the end records, number of members, size and offset of the directory, the file's comment."""
    if source.size < _END.size:
        raise WheelError(
            f"{name} is no zip file.", why=f"It has {source.size} bytes.", next="Copy or download it again."
        )
    length = min(source.size, _END.size + _MOST16)
    tail = source.read_at(source.size - length, length)
    found = tail.rfind(_MARK)
    if found < 0:
        raise _no_end(source, name)
    past = found + _END.size + _u16(tail, found + 20) - length
    if past > 0:
        raise WheelError(
            f"{name} is truncated.",
            why=f"{past} bytes of its end are missing.",
            next="Copy or download it again.",
        )
    # One that lies in the comment of another, or in bytes after the end, makes two readings of one file.
    if past < 0 or _earlier_end(tail, found):
        raise WheelError(
            f"{name} has bytes after its end, or two ends.",
            why="Programs disagree on what such a zip file holds.",
            next="Copy or download it again; if that changes nothing, ask its maker.",
        )
    _, disk, first, here, count, size, offset, _ = _END.unpack_from(tail, found)
    start = source.size - length + found
    comment = tail[found + _END.size :]
    most = (_MOST16 in {disk, first, here, count}) or _MOST32 in {size, offset}
    if found >= _LOCATOR.size and tail[found - _LOCATOR.size : found].startswith(b"PK\x06\x07"):
        start, *big = _end64(source, name, tail, found, start)
        for short, long, limit in zip(
            (disk, first, here, count, size, offset), big, (*[_MOST16] * 4, *[_MOST32] * 2), strict=True
        ):
            if short not in {long, limit}:
                raise WheelError(f"{name}: its two end records (zip and zip64) disagree.")
        disk, first, here, count, size, offset = big
    elif most and count != _MOST16:  # 65,535 members are possible without
        raise WheelError(f"{name} is damaged: its zip64 end record is missing.")
    if disk or first or here != count:
        raise WheelError(
            f"{name} is one part of a zip file in several parts.", next="Get the wheel in one file."
        )
    return start, count, size, offset, comment


def _earlier_end(tail: bytes, found: int) -> bool:
    at = tail.find(_MARK)
    while 0 <= at < found:
        if at + _END.size + _u16(tail, at + 20) == len(tail):
            return True
        at = tail.find(_MARK, at + 1)
    return False


def _end64(source: Source, name: str, tail: bytes, found: int, start: int) -> tuple[int, ...]:
    at = start - _LOCATOR.size - _END64.size
    _, disk, offset, disks = _LOCATOR.unpack_from(tail, found - _LOCATOR.size)
    if disk or disks != 1 or offset != at or at < 0:
        raise WheelError(f"{name}: its zip64 end record is not where it should be.")
    magic, length, _, _, *values = _END64.unpack(source.read_at(at, _END64.size))
    if magic != b"PK\x06\x06" or length != _END64.size - 12:
        raise WheelError(f"{name}: its zip64 end record is damaged or of an unknown kind.")
    return at, *values


def _no_end(source: Source, name: str) -> WheelError:
    if source.read_at(0, 4) == b"PK\x03\x04":
        return WheelError(
            f"{name} is truncated.",
            why="It begins as a zip file, and the directory at its end is missing.",
            next="Copy or download it again.",
        )
    return WheelError(
        f"{name} is no zip file, so no wheel.",
        why="Neither its beginning nor its end is that of a zip file.",
        next="Check that it is the wheel and not an error page or a pointer file saved under its name.",
    )


def _member(data: bytes, at: int, file: str, end: int) -> tuple[Member, int]:
    if at + _CENTRAL.size > len(data):
        raise WheelError(f"{file}: its directory is truncated.", next="Copy or download it again.")
    (
        magic, _, system, _, flags, method, time, date, crc, compressed, size,
        name_length, extra_length, comment_length, disk, _, attributes, offset,
    ) = _CENTRAL.unpack_from(data, at)  # fmt: skip
    if magic != b"PK\x01\x02":
        raise WheelError(f"{file}: its directory is damaged.", next="Copy or download it again.")
    at += _CENTRAL.size
    stop = at + name_length + extra_length + comment_length
    if stop > len(data):
        raise WheelError(f"{file}: its directory is truncated.", next="Copy or download it again.")
    raw = data[at : at + name_length]
    name = _decoded(raw, flags, file)
    extras = split_extra(data[at + name_length : at + name_length + extra_length], f"{file}: {name}")
    if 0x7075 in extras:
        raise WheelError(f"{file}: {name} has a second name, which only some programs use.")
    size, compressed, offset, disk = _zip64(
        extras.get(1), (size, compressed, offset, disk), f"{file}: {name}"
    )
    if disk:
        raise WheelError(f"{file}: {name} lies in another part of a zip file in several parts.")
    _usable(file, name, flags, method, attributes >> 16)
    if method == STORED and size != compressed:
        raise WheelError(
            f"{file}: {name} is stored as it is, with two sizes ({compressed} and {size} bytes)."
        )
    if offset + 30 + name_length + compressed > end:
        raise WheelError(
            f"{file}: {name} reaches beyond the end of the members.", next="Copy or download it again."
        )
    stamp = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
    mode = attributes >> 16
    return Member(name, size, compressed, crc, method, mode, offset, flags, stamp, system, raw), stop


def _decoded(raw: bytes, flags: int, file: str) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise WheelError(
            f"{file}: a member's name is neither ASCII nor marked as UTF-8: {raw[:80]!r}.",
            why="Programs would unpack it under different names.",
        ) from error


def _usable(file: str, name: str, flags: int, method: int, mode: int) -> None:
    if flags & _ENCRYPTED:
        raise WheelError(
            f"{file}: {name} is encrypted.",
            why="No installer reads encrypted members.",
            next="Get the wheel in clear.",
        )
    if flags & ~_HARMLESS:
        raise WheelError(f"{file}: {name} has flags of an unknown meaning ({flags:#06x}).")
    if method not in {STORED, DEFLATED}:
        raise WheelError(
            f"{file}: {name} is compressed in a way that wheels are not: {_METHODS.get(method, f'method {method}')}.",
            why="Installers read stored and deflated members.",
            next="Pack the wheel again with the deflate method.",
        )
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise WheelError(
            f"{file}: {name} is a symbolic link.",
            why="Wheels have no links: installers write a text file in its place, or what it points at.",
        )
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR} or (kind == stat.S_IFDIR) > name.endswith("/"):
        raise WheelError(f"{file}: {name} is neither a file nor a folder (mode {mode:#o}).")


def split_extra(raw: bytes, where: str) -> dict[int, bytes]:
    """The extra fields of a header by their number.

    Raises:
        WheelError: they do not fit the room that they have, or one is there twice.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(raw):
        number, length = struct.unpack_from("<HH", raw, at)
        at += 4
        if at + length > len(raw) or number in found:
            raise WheelError(f"{where} has damaged extra fields.")
        found[number] = raw[at : at + length]
        at += length
    if any(raw[at:]):  # some tools pad with a few zeros
        raise WheelError(f"{where} has damaged extra fields.")
    return found


def _zip64(extra: bytes | None, values: tuple[int, int, int, int], where: str) -> tuple[int, int, int, int]:
    """Sizes, offset and disk; where one is at its most, the true one stands in the extra field (4.5.3)."""
    found = []
    at = 0
    for value, limit, layout in zip(
        values, (_MOST32, _MOST32, _MOST32, _MOST16), ("<Q", "<Q", "<Q", "<L"), strict=True
    ):
        if value == limit and extra is not None:
            if at + struct.calcsize(layout) > len(extra):
                raise WheelError(f"{where} has a damaged zip64 field.")
            (value,) = struct.unpack_from(layout, extra, at)
            at += struct.calcsize(layout)
        found.append(value)
    return found[0], found[1], found[2], found[3]


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
