"""What the members of a wheel may be called, how they may lie in the file, and how large they may become."""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable
from typing import Final

from vllm_builder.errors import WheelError
from vllm_builder.wheelfile.directory import Directory, Member, split_extra
from vllm_builder.wheelfile.sources import Source

MAX_RATIO: Final = 200
"""Of size to compressed size, from :data:`FREE_SIZE` on. Deflate reaches 1032; the libraries of vLLM's, xformers' and
bitsandbytes' wheels have 2 to 5."""
FREE_SIZE: Final = 64 << 20
MAX_UNPACKED: Final = 64 << 30
"""Bytes of all members together."""

_LOCAL = struct.Struct("<4s5H3L2H")
_MOST32 = 0xFFFFFFFF
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:|^/")


def check_names(members: Iterable[Member], file: str) -> None:
    """Refuse names that leave the folder, that no file can have, or that two members share.

    Raises:
        WheelError
    """
    seen: dict[str, str] = {}
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for member in members:
        name = member.name
        parts = name.removesuffix("/").split("/")
        if not name or _UNPRINTABLE.search(name) or ".." in parts or "." in parts or "" in parts:
            raise WheelError(
                f"{file}: a member has a name that is not allowed: {name[:120]!r}.",
                why="Unpacked, it would leave its folder, or be called differently by each program.",
            )
        if member.is_dir and (member.size or member.compressed > 2):
            raise WheelError(f"{file}: {name} is a folder with content.")
        # On a disk that does not tell A from a, or é from e with an accent, one would replace the other.
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.removesuffix("/")).casefold())
        if plain in seen:
            same = seen[plain] == name
            raise WheelError(
                f"{file}: two members are called {name}."
                if same
                else f"{file}: {seen[plain]} and {name} have the same name on some disks.",
                why="Which of them is installed would depend on the program"
                + (" or the disk." if not same else "."),
            )
        seen[plain] = name
        if not member.is_dir:
            files[plain] = name
        for end in (at for at, letter in enumerate(plain) if letter == "/"):
            folders.setdefault(plain[:end], name)
    for plain in files.keys() & folders.keys():
        raise WheelError(f"{file}: {files[plain]} is a file and the folder of {folders[plain]}.")


def check_sizes(members: Iterable[Member], file: str) -> None:
    """Refuse what would become absurdly large.

    Raises:
        WheelError
    """
    total = 0
    for member in members:
        total += member.size
        if member.size > FREE_SIZE and member.size > MAX_RATIO * member.compressed:
            raise WheelError(
                f"{file}: {member.name} would become {member.size} bytes out of {member.compressed}: a zip bomb.",
                why=f"No file of a wheel of more than {FREE_SIZE >> 20} MiB is compressed to less than "
                f"1/{MAX_RATIO} of its size.",
            )
    if total > MAX_UNPACKED:
        raise WheelError(f"{file} would become {total} bytes: a zip bomb.")


def check_order(directory: Directory, file: str) -> None:
    """Refuse members that share bytes, as far as the directory alone can tell.

    Raises:
        WheelError
    """
    end, before = 0, ""
    for member in sorted(directory.members, key=lambda m: m.offset):
        if member.offset < end:
            raise WheelError(
                f"{file}: {before} and {member.name} share bytes: a zip bomb.",
                why="Members that overlap unpack to any size out of a small file.",
            )
        end, before = member.offset + _LOCAL.size + len(member.raw_name) + member.compressed, member.name


def check_layout(source: Source, directory: Directory, file: str) -> None:
    """Hold every local header against the directory, and account for every byte between the members.

    Raises:
        WheelError
    """
    at = 0
    for member in sorted(directory.members, key=lambda m: m.offset):
        if member.offset != at:
            raise _stray(file, member.name, member.offset - at)
        at = data_offset(source, member, file) + member.compressed
        if member.has_descriptor:
            at += _descriptor(source, member, at, directory.offset, file)
    if at != directory.offset:
        raise _stray(file, "its directory", directory.offset - at)


def data_offset(source: Source, member: Member, file: str) -> int:
    """Where a member's compressed bytes begin, from its local header, which must agree with the directory.

    Raises:
        WheelError
    """
    where = f"{file}: {member.name}"
    head = source.read_at(member.offset, _LOCAL.size + len(member.raw_name))
    magic, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = _LOCAL.unpack_from(head)
    if magic != b"PK\x03\x04":
        raise WheelError(
            f"{where} is not where the directory says.", next="Copy or download the wheel again."
        )
    if (
        name_length != len(member.raw_name)
        or head[_LOCAL.size :] != member.raw_name
        or method != member.method
        or flags & ~0x0006 != member.flags & ~0x0006
    ):
        raise _disagree(where, "name, method or flags")
    start = member.offset + _LOCAL.size + int(name_length)
    extras = split_extra(source.read_at(start, extra_length), where) if extra_length else {}
    if 0x7075 in extras:
        raise WheelError(f"{where} has a second name, which only some programs use.")
    big = extras.get(1, b"")
    for_sizes = []
    for value in (size, compressed):  # in this order in the extra field
        if value == _MOST32 and len(big) >= 8:
            value, big = int.from_bytes(big[:8], "little"), big[8:]
        for_sizes.append(value)
    told = (crc, *for_sizes)
    true = (member.crc, member.size, member.compressed)
    # With a descriptor they stand behind the data, and are 0 here.
    if told != true and not (member.has_descriptor and not any(told)):
        raise _disagree(where, "sizes or checksum")
    return start + int(extra_length)


def _descriptor(source: Source, member: Member, at: int, end: int, file: str) -> int:
    """Length of the data descriptor behind a member's data (4.3.9): with or without a mark, of either width."""
    data = source.read_at(at, min(24, max(0, end - at)))
    for mark in (b"PK\x07\x08", b""):
        for layout in ("<LLL", "<LQQ"):
            wanted = (
                mark + struct.pack(layout, member.crc, member.compressed, member.size)
                if _fits(member, layout)
                else None
            )
            if wanted and data.startswith(wanted):
                return len(wanted)
    raise _disagree(f"{file}: {member.name}", "sizes or checksum")


def _fits(member: Member, layout: str) -> bool:
    return layout == "<LQQ" or max(member.size, member.compressed) <= _MOST32


def _disagree(where: str, what: str) -> WheelError:
    return WheelError(
        f"{where} has two headers that disagree ({what}).",
        why="One installer believes the one, the next the other.",
        next="Copy or download the wheel again; if that changes nothing, ask its maker.",
    )


def _stray(file: str, name: str, count: int) -> WheelError:
    if count < 0:
        return WheelError(f"{file}: {name} shares bytes with another member: a zip bomb.")
    return WheelError(
        f"{file} has {count} bytes that belong to nothing, before {name}.",
        why="Programs disagree on what such a zip file holds.",
        next="Build the wheel again, or ask its maker to.",
    )
