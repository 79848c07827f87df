"""Names of the kernels in a piece of GPU code, to say what is missing and not only that something is.

Unlike the listing, this decompresses: meant for the few units that a person has to hear of.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from struct import Struct
from typing import Final

from vllm_builder.binary.buffer import Buffer, Data, buffered, decode
from vllm_builder.binary.elf import Elf
from vllm_builder.binary.model import GpuCode

LARGEST: Final = 256 << 20
"""Bytes after decompression that are taken; the largest cubin of vLLM 0.9.2 has 43 MB."""
_SYMBOL: Final = Struct("<IBBHQQ")
_FUNCTION: Final = 2
_ENTRY: Final = 0x10
"""In st_other of a cubin's symbol: a function that the host can launch (``STO_ENTRY`` in cuobjdump's words)."""
_TOKEN: Final = re.compile(rb'"[^"\n]*"|//[^\n]*|/\*|\.entry\s+([\w$%]+)')
_SECONDS: Final = 20


def kernels(data: Data, code: GpuCode, *, name: str = "library") -> tuple[str, ...]:
    """Names of the kernels, as the linker knows them, in the order of the file.

    Args:
        data: the file that ``code`` was found in.
        code: binary code or PTX. LTO-IR is scrambled, it gives no names.

    Raises:
        WheelError: the code is damaged, or larger than any known.
    """
    if code.kind == "ltoir":
        return ()
    with buffered(data, name) as buffer:
        image = _image(buffer, code)
    with buffered(image, f"{name}: GPU code at 0x{code.offset:x}") as buffer:
        found = _of_ptx(buffer, image) if code.kind == "ptx" else _of_cubin(buffer)
    return tuple(dict.fromkeys(found))


def demangle(names: Iterable[str]) -> tuple[str, ...]:
    """C++ names in the spelling of their source, by ``c++filt`` of binutils; unchanged on a machine without it."""
    names = tuple(names)
    tool = shutil.which("c++filt")
    if not tool or not names or any("\n" in name for name in names):
        return names
    try:
        done = subprocess.run(
            [tool],
            input="\n".join(names) + "\n",
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return names
    lines = done.stdout.splitlines()
    return tuple(lines) if len(lines) == len(names) else names


def _image(buffer: Buffer, code: GpuCode) -> bytes:
    where = f"the GPU code at 0x{code.offset:x}"
    stored, size = code.block if code.block != (0, 0) else (code.stored, code.size)
    if size > LARGEST:
        buffer.refuse(f"{where} claims {size} bytes, more than any known")
    packed = buffer.copy(code.offset, stored, where)
    image = _decompress(buffer, where, packed, size, code.compression)
    if len(image) != size:
        buffer.refuse(f"{where} has {len(image)} bytes and claims {size}")
    return image[code.start : code.start + code.size]


def _decompress(buffer: Buffer, where: str, packed: bytes, size: int, compression: str) -> bytes:
    if compression == "lz4":
        import lz4.block

        try:
            return bytes(lz4.block.decompress(packed, uncompressed_size=size))
        except (lz4.block.LZ4BlockError, ValueError) as error:
            buffer.refuse(f"{where} is damaged: {error}")
    if compression == "zstd":
        import zstandard

        try:
            # The frame's own claim decides how much the library allocates.
            if zstandard.frame_content_size(packed) not in (-1, size):
                buffer.refuse(f"{where} contradicts its header about its size")
            return bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=size))
        except (zstandard.ZstdError, ValueError) as error:
            buffer.refuse(f"{where} is damaged: {error}")
    return packed


def _of_cubin(buffer: Buffer) -> list[str]:
    elf = Elf(buffer)
    if elf.machine != "cuda":
        buffer.refuse(f"it is a program for {elf.machine}, not for a GPU")
    known = elf.symbol_table()
    if not known:
        buffer.refuse("it has no symbols")
    offset, size, strings = known
    table = buffer.copy(offset, size - size % _SYMBOL.size, "the symbols")
    return [
        strings.text(label)
        for label, info, other, section, _, _ in _SYMBOL.iter_unpack(table)
        if info & 0xF == _FUNCTION and other & _ENTRY and section
    ]


def _of_ptx(buffer: Buffer, text: bytes) -> list[str]:
    found: list[str] = []
    position = 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token[1]:
            found.append(decode(token[1]))
        elif token[0] == b"/*":
            position = text.find(b"*/", position) + 2
            if position < 2:
                buffer.refuse("it has a comment without end")
    return found
