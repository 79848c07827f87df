"""The hash over the files of an external: the one that git would give them, whoever computes it.

It is made of the same parts as ``git rev-parse COMMIT^{tree}`` and equals it for a repository without pictures.
So a commit, a folder and an unpacked archive can be held against each other, also by whoever has only the files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vllm_builder.fs import os_errors

_CHUNK = 1 << 20
_PICTURES: Final = (
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".bmp", ".ico", ".tif", ".tiff", ".pdf", ".mp4", ".mov", ".ipynb",
)  # fmt: skip
"""Pictures and the like, which no compiler reads: a good part of what some repositories weigh."""

Entry = tuple[str, str, str]
"""Mode as git writes it (``100644``), object id, path."""


def wanted(path: str, without: Sequence[str] = ()) -> bool:
    """Whether a file of an external is fetched, placed and counted.

    Args:
        without: folders of which nothing is.
    """
    return not path.lower().endswith(_PICTURES) and not inside(path, without)


def inside(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of the folders, or lies in one of them."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def tree_hash(entries: Iterable[Entry], without: Sequence[str] = ()) -> str:
    """The object id of the tree that these files and submodules make; what is not wanted does not count."""
    root: dict[str, Any] = {}
    for mode, oid, path in entries:
        if wanted(path, without) or (mode == "160000" and not inside(path, without)):
            *parents, name = path.split("/")
            folder = root
            for parent in parents:
                folder = folder.setdefault(parent, {})
            folder[name] = (mode, oid)
    return _object(root).hex()


def _object(folder: Mapping[str, Any]) -> bytes:
    entries = []
    for name, item in folder.items():
        raw = name.encode("utf-8", "surrogateescape")
        if isinstance(item, dict):
            entries.append((raw + b"/", b"40000 " + raw, _object(item)))
        else:
            mode, oid = item
            # git sorts submodules as the folders that they are.
            key = raw + b"/" if mode == "160000" else raw
            entries.append((key, f"{mode} ".encode() + raw, bytes.fromhex(oid)))
    body = b"".join(head + b"\0" + oid for _, head, oid in sorted(entries))
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).digest()


def folder_hash(
    root: Path,
    submodules: Mapping[str, str] = {},  # never changed
    without: Sequence[str] = (),
) -> str:
    """:func:`tree_hash` of a folder.

    Args:
        submodules: path and commit of the submodules; what lies in their folders does not count.
        without: folders that do not count either.

    Raises:
        NotWritable, BuilderError: something cannot be read.
    """
    with os_errors(f"reading {root}"):
        links = [("160000", commit, path) for path, commit in submodules.items()]
        return tree_hash([*_entries(root, "", {*submodules, *without}), *links], without)


def _entries(folder: Path, prefix: str, passed_over: Collection[str]) -> Iterator[Entry]:
    for entry in os.scandir(folder):
        path = f"{prefix}{entry.name}"
        if path in passed_over or entry.name == ".git":
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _entries(Path(entry.path), f"{path}/", passed_over)
        elif wanted(path):
            if stat.S_ISLNK(mode):
                yield "120000", _link(Path(entry.path)), path
            else:
                yield "100755" if mode & stat.S_IXUSR else "100644", _file(Path(entry.path)), path


def _link(path: Path) -> str:
    data = os.fsencode(path.readlink())
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _file(path: Path) -> str:
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
