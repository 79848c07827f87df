"""The files of a tree, with changes kept in memory until all of them are known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vllm_builder.errors import PatchFailed
from vllm_builder.fs import os_errors


class Overlay:
    """Reads from ``root``; writes to memory.

    Paths are relative to the root, with forward slashes. A symbolic link that stays inside the tree stands
    for the file that it leads to; one that leaves the tree is refused, for reading as for writing.

    Args:
        root: the tree.
        originals: contents to be taken for those on disk (None: the file is not there).
    """

    def __init__(self, root: Path, originals: Mapping[str, bytes | None] | None = None) -> None:
        self.root = root.resolve()
        self._disk: dict[str, bytes | None] = dict(originals or {})
        self._now: dict[str, bytes] = {}
        self._real: dict[str, str] = {}

    def real(self, path: str) -> str:
        """Follow links inside the tree.

        Answers are remembered: one overlay serves one application, during which the tree stands still.

        Raises:
            PatchFailed: the path leads out of the tree.
        """
        if path in self._real:
            return self._real[path]
        try:
            found = (self.root / path).resolve()
        except (OSError, RuntimeError) as error:
            raise PatchFailed(f"{path} cannot be followed.", why=str(error)) from error
        if not found.is_relative_to(self.root):
            raise PatchFailed(
                f"{path} leads out of the tree.",
                why=f"A link in the tree points to {found}; what lies there is never read or written.",
                next="Remove the link from the tree, or take the source from where you trust it.",
            )
        self._real[path] = found.relative_to(self.root).as_posix()
        return self._real[path]

    def exists(self, path: str) -> bool:
        return self.get(path) is not None

    def get(self, path: str) -> bytes | None:
        """The present content, or None where there is no such file."""
        real = self.real(path)
        return self._now[real] if real in self._now else self.original(real)

    def original(self, real: str) -> bytes | None:
        """The content on disk, whatever was put since."""
        if real not in self._disk:
            place = self.root / real
            with os_errors(f"reading {real} of the tree"):
                self._disk[real] = place.read_bytes() if place.is_file() else None
        return self._disk[real]

    def put(self, path: str, data: bytes) -> bool:
        """Keep new content in memory; True when it differs from the present one."""
        if self.get(path) == data:
            return False
        self._now[self.real(path)] = data
        return True

    def snapshot(self) -> dict[str, bytes]:
        """What was put so far, by real path; for :meth:`restore`."""
        return dict(self._now)

    def restore(self, snapshot: Mapping[str, bytes]) -> None:
        """Forget what was put since."""
        self._now = dict(snapshot)

    def glob(self, patterns: Iterable[str]) -> list[str]:
        """Files that match, sorted, each once, under its real path; files that were put are found too."""
        found: set[str] = set()
        for pattern in patterns:
            matcher = glob_regex(pattern)
            found.update(path for path in self._now if matcher.fullmatch(path))
            for place in self.root.glob(pattern):
                name = place.relative_to(self.root).as_posix()
                if (place.is_file() or place.is_symlink()) and self.exists(name):
                    found.add(self.real(name))
        return sorted(found)

    def changes(self) -> dict[str, tuple[bytes | None, bytes]]:
        """Real path -> content on disk (None: a new file) and new content, where these differ."""
        return {
            path: (self.original(path), data)
            for path, data in sorted(self._now.items())
            if self.original(path) != data
        }


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``*`` and ``?`` stay within one folder, ``**`` crosses folders."""
    out = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        out += {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(out)
