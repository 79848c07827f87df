"""Single fields of METADATA and WHEEL are changed; every other byte stays as it is.

Both are headers as in e-mail (core metadata specification, "Metadata file format"; binary distribution format): lines
that begin with a blank continue the one before, the first empty line ends them, and below it is text that is never
looked at. A parser that writes the message anew would fold and re-encode the lines that nobody asked to be changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from packaging.utils import canonicalize_name

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*(.*)", re.DOTALL)
_NAME = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def require_torch(metadata: bytes, requirement: str) -> tuple[bytes, tuple[str, ...]]:
    """Let METADATA require exactly one torch.

    Args:
        metadata: the file.
        requirement: ``torch~=2.9.1``.

    Returns:
        the new file, and the requirements of torch that it replaced (those of extras too, which would ask for another
        torch in vain). Other packages of its family are left as they are.
    """
    removed: list[str] = []

    def about_torch(name: bytes, value: bytes) -> bool:
        found = _NAME.match(value.strip())
        mine = name.lower() == b"requires-dist" and found and canonicalize_name(found[0].decode()) == "torch"
        if mine:
            removed.append(" ".join(value.decode("utf-8", "replace").split()))
        return bool(mine)

    return _replace(metadata, about_torch, "Requires-Dist", (requirement,)), tuple(removed)


def tag_wheel(wheel: bytes, tags: tuple[str, ...]) -> bytes:
    """Give the file WHEEL these tags and no others; ``cp38-abi3-manylinux_2_34_x86_64``."""
    return _replace(wheel, lambda name, value: name.lower() == b"tag", "Tag", tags)


def _replace(
    text: bytes, replaced: Callable[[bytes, bytes], bool], name: str, values: tuple[str, ...]
) -> bytes:
    """Fields that are replaced go, and the new ones come where the first of them was.

    Without any, they come behind the last field of that name, else behind the last field of all.
    """
    fields, rest = _split(text)
    newline = b"\r\n" if fields and fields[0].endswith(b"\r\n") else b"\n"
    new = [f"{name}: {value}".encode() + newline for value in values]
    kept: list[bytes] = []
    place = behind = None
    for field in fields:
        found = _FIELD.match(field)
        if found and replaced(found[1], found[2]):
            place = len(kept) if place is None else place
            continue
        kept.append(field)
        if found and found[1].lower() == name.lower().encode():
            behind = len(kept)
    if place is None:
        place = len(kept) if behind is None else behind
    if place and not kept[place - 1].endswith((b"\n", b"\r")):
        kept[place - 1] += newline
    return b"".join([*kept[:place], *new, *kept[place:], rest])


def _split(text: bytes) -> tuple[list[bytes], bytes]:
    """The fields, each with its further lines and line ends; and all from the empty line on."""
    fields: list[bytes] = []
    position = 0
    for line in text.splitlines(keepends=True):
        if not line.strip(b"\r\n"):
            break
        if line[:1] in b" \t" and fields:
            fields[-1] += line
        else:
            fields.append(line)
        position += len(line)
    return fields, text[position:]
