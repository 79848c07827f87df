"""GPU code in a library: the containers that nvcc's ``fatbinary`` writes, one for each translation unit.

NVIDIA documents the format nowhere. What is read here was worked out from the output of fatbinary 11.8 to 13.5 and
held against ``cuobjdump``. Whatever does not fit is refused: a unit that is passed over would be a kernel that nobody
misses. Payloads are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from vllm_builder.binary.buffer import Buffer, Data, buffered
from vllm_builder.binary.model import CodeKind, Compression, GpuCode, Unit

SECTIONS: Final = (".nv_fatbin", "__nv_relfatbin")
MAGIC: Final = b"\x50\xed\x55\xba"

_CONTAINER: Final = Struct("<IHHQ")  # magic, version, header size, body size
_ENTRY: Final = Struct("<HHIQIIHHIIIQQQ")
"""Kind, 0x0101, header size, payload size (a multiple of 8), compressed size, offset of the compiler's options, minor,
major, SM, offset and size of the source's name, flags, (unknown), raw size."""
_COUNT: Final = Struct("<II")  # parts of a concatenated entry, bytes of this list
_PART: Final = Struct("<HHIQQHHIQQQQ")
"""Kind, 0x0101, offset in the raw block, size, (unknown), minor, major, SM, (unknown), flags, (unknown, unknown)."""

_PTX, _SASS, _LTOIR, _CONCATENATED = 1, 2, 8, 256
_KINDS: Final[dict[int, CodeKind]] = {_PTX: "ptx", _SASS: "sass", _LTOIR: "ltoir"}
_LZ4, _ZSTD, _ARCH, _FAMILY = 0x2000, 0x8000, 0x100000, 0x200000
# Beside those: 1 64 bit, 2 -G, 0x10 Linux, 0x10000 LTO-IR (its payload is scrambled), 0x1000000 cubins from 10.0 on.
_KNOWN_FLAGS: Final = 0x1 | 0x2 | 0x10 | 0x10000 | 0x1000000 | _LZ4 | _ZSTD | _ARCH | _FAMILY

MOST_CODES: Final = 200_000
"""In one file. libcublasLt.so.13, the largest known, has 17 thousand."""
LARGEST_CODE: Final = 4 << 30
"""Bytes after decompression."""
_MOST_PADDING: Final = 4096
"""Zero bytes between two containers; a linker aligns, it does not leave holes."""


def read_fatbin(data: Data, *, name: str) -> tuple[Unit, ...]:
    """GPU code of a bare fatbin file (``nvcc -fatbin``), or of the contents of a library's section.

    Raises:
        WheelError
    """
    with buffered(data, name) as buffer:
        return tuple(read_units(buffer, [("fatbin", 0, buffer.size)]))


def read_units(buffer: Buffer, sections: list[tuple[str, int, int]]) -> Iterator[Unit]:
    """The units of sections, each given by name, offset and size."""
    left = MOST_CODES
    for section, offset, size in sections:
        where = f"section {section}"
        buffer.hold(offset, size, where)
        end = offset + size
        position = _skip_padding(buffer, where, offset, end)
        if size and position == end:
            buffer.refuse(f"{where} holds no GPU code, only zeros")
        while position < end:
            unit, position = _unit(buffer, section, position, end, left)
            left -= 1 + len(unit.codes)  # empty containers take memory as well
            if left < 0:
                buffer.refuse(f"{where} has more than {MOST_CODES} pieces of GPU code")
            position = _skip_padding(buffer, where, position, end)
            yield unit


def _skip_padding(buffer: Buffer, where: str, position: int, end: int) -> int:
    start = position
    chunk = buffer.copy(position, min(_MOST_PADDING, end - position), where)
    position += len(chunk) - len(chunk.lstrip(b"\0"))
    if position - start == _MOST_PADDING:
        buffer.refuse(f"{where} has a hole at 0x{start:x}")
    return position


def _unit(buffer: Buffer, section: str, position: int, end: int, most: int) -> tuple[Unit, int]:
    where = f"the container at 0x{position:x} of section {section}"
    if position + _CONTAINER.size > end:
        buffer.refuse(f"{where} is cut off")
    magic, version, header, body = buffer.unpack(_CONTAINER, position, where)
    if magic != 0xBA55ED50:
        buffer.refuse(f"{where} is none: it begins with {magic:08x}")
    if version != 1 or header != _CONTAINER.size:
        buffer.refuse(f"{where} has version {version} and a header of {header} bytes, which nobody knows yet")
    at = position + header
    if body > end - at:
        buffer.refuse(f"{where} claims {body} bytes of {end - at}")
    stop = at + body
    codes: list[GpuCode] = []
    while at < stop:
        found, at = _entry(buffer, section, at, stop)
        codes += found
        if len(codes) > most:
            buffer.refuse(f"section {section} has more than {MOST_CODES} pieces of GPU code")
    return Unit(section=section, offset=position, codes=tuple(codes)), stop


def _entry(buffer: Buffer, section: str, at: int, stop: int) -> tuple[list[GpuCode], int]:
    where = f"the entry at 0x{at:x} of section {section}"
    if at + _ENTRY.size > stop:
        buffer.refuse(f"{where} is cut off")
    fields = buffer.unpack(_ENTRY, at, where)
    kind, mark, header, payload, packed, _, minor, major, sm, _, _, flags, _, raw = fields
    if mark != 0x0101 or header < _ENTRY.size or header % 8:
        buffer.refuse(
            f"{where} has the mark {mark:#x} and a header of {header} bytes, which nobody knows yet"
        )
    if header + payload > stop - at:
        buffer.refuse(f"{where} claims {header + payload} bytes of {stop - at}")
    compression = _compression(buffer, where, flags, packed, raw, payload)
    stored, size = (packed, raw) if compression != "none" else (payload, payload)
    offset = at + header
    if kind == _CONCATENATED:
        block = (offset, stored, size)
        return _parts(buffer, where, at, header, block, compression), offset + payload
    if kind not in _KINDS:
        buffer.refuse(f"{where} is of kind {kind}, which nobody knows yet")
    code = GpuCode(
        kind=_KINDS[kind],
        arch=_arch(buffer, where, sm, flags),
        version=(major, minor),
        offset=offset,
        stored=stored,
        size=size,
        compression=compression,
    )
    return [code], offset + payload


def _compression(buffer: Buffer, where: str, flags: int, packed: int, raw: int, payload: int) -> Compression:
    if flags & ~_KNOWN_FLAGS or (flags & _LZ4 and flags & _ZSTD):
        buffer.refuse(f"{where} has the flags {flags:#x}, which nobody knows yet")
    if not flags & (_LZ4 | _ZSTD):
        if packed or raw:
            buffer.refuse(f"{where} is not compressed by its flags and has a compressed size")
        return "none"
    if not 0 <= payload - packed < 8 or not packed or not 0 < raw <= LARGEST_CODE:
        buffer.refuse(f"{where} claims to be {raw} bytes compressed to {packed} in a place of {payload}")
    return "lz4" if flags & _LZ4 else "zstd"


def _parts(
    buffer: Buffer, where: str, at: int, header: int, block: tuple[int, int, int], compression: Compression
) -> list[GpuCode]:
    """What ``nvcc --concat`` put into one entry, to be compressed together."""
    offset, stored, size = block
    extra = header - _ENTRY.size
    if extra < _COUNT.size:
        buffer.refuse(f"{where} says not what it is made of")
    count, listed = buffer.unpack(_COUNT, at + _ENTRY.size, where)
    if not count or listed != _COUNT.size + count * _PART.size or listed > extra:
        buffer.refuse(f"{where} claims {count} parts in {extra} bytes")
    codes, begin = [], 0
    for index in range(count):
        part_at = at + _ENTRY.size + _COUNT.size + index * _PART.size
        kind, mark, start, length, _, minor, major, sm, _, flags, *_ = buffer.unpack(_PART, part_at, where)
        if kind not in _KINDS or mark != 0x0101 or flags & ~_KNOWN_FLAGS:
            buffer.refuse(
                f"part {index} of {where} has kind {kind} and flags {flags:#x}, which nobody knows yet"
            )
        if start < begin or length > size - start:
            buffer.refuse(f"part {index} of {where} does not lie within its block")
        begin = start + length
        codes.append(
            GpuCode(
                kind=_KINDS[kind],
                arch=_arch(buffer, where, sm, flags),
                version=(major, minor),
                offset=offset,
                stored=stored * length // size if size else 0,
                size=length,
                compression=compression,
                block=(stored, size),
                start=start,
            )
        )
    return codes


def _arch(buffer: Buffer, where: str, sm: int, flags: int) -> str:
    if not 10 <= sm < 1000 or (flags & _ARCH and flags & _FAMILY):
        buffer.refuse(f"{where} is for SM {sm} with the flags {flags:#x}, which nobody knows yet")
    suffix = "a" if flags & _ARCH else "f" if flags & _FAMILY else ""
    return f"{sm // 10}.{sm % 10}{suffix}"
