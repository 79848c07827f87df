"""Unpacking archives that nobody vouches for.

Regular files are created one by one, never through a link; links are made last, when every file has its
place, and only if they stay inside the tree. So an archive has no moment in which it could write elsewhere,
whatever order its members have. Sizes are counted as they come out of the decompressor, not as headers
claim them, and memory stays small: headers longer than :data:`_READ_LIMIT` are refused.
"""

from __future__ import annotations

import errno
import shutil
import stat
import tarfile
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from os import utime
from pathlib import Path
from typing import Final, Literal

from vllm_builder.errors import BuilderError, HostileArchive, SourceError, from_os_error
from vllm_builder.stages.source.archives import READ_LIMIT, Entry, entries_of
from vllm_builder.stages.source.links import link_problem
from vllm_builder.stages.source.placing import partial_folder

Select = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source archive may be at most. The largest release so far has a twentieth of this.

    ``ratio`` is unpacked to packed size, looked at beyond ``ratio_floor`` bytes.
    """

    members: int = 200_000
    total: int = 4 << 30
    ratio: int = 100
    ratio_floor: int = 64 << 20


LIMITS: Final = Limits()
_MAX_PATH: Final = 4096
_MAX_NAME: Final = 255
_MAX_MTIME: Final = 1 << 33


def extract(archive: Path, dest: Path, *, select: Select | None = None, limits: Limits = LIMITS) -> None:
    """Unpack a ``.tar``, ``.tar.gz``, ``.tar.bz2`` or ``.zip`` into the new folder ``dest``.

    A single top folder is stripped. Files get the archive's times and executable bit and otherwise the usual
    mode; owners, set-id bits and the like are dropped. ``dest`` appears whole or not at all.

    Args:
        select: takes a path relative to the top folder; only files for which it is true are written, but
            the whole archive is checked.

    Raises:
        HostileArchive: a member would leave the folder, is no file, folder or link, or is absurdly large.
        SourceError: the archive is damaged or of an unknown kind.
        NoSpace, NotWritable
    """
    with partial_folder(dest) as partial:
        budget = _Budget(archive, limits)
        tree = _Tree(partial, archive, select, limits, budget)
        try:
            for entry in entries_of(archive, budget.take, partial):
                tree.add(entry)
            root = tree.finish()
        except BuilderError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise from_os_error(error, f"unpacking {archive.name}") from error
            raise _damaged(archive, error) from error
        except (EOFError, ValueError, OverflowError, RuntimeError, zlib.error, NotImplementedError) as error:
            # RuntimeError: encrypted members, and the recursion of endlessly nested headers.
            raise _damaged(archive, error) from error
        except tarfile.TarError as error:
            # A member is read here, outside of the reader of members: it may end within a file.
            raise _damaged(archive, error) from error
        root.replace(dest)


def _damaged(archive: Path, error: Exception) -> SourceError:
    return SourceError(
        f"{archive.name} cannot be unpacked: it is damaged or no archive of a known kind.",
        why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
        next="Fetch it again (--refresh), or give another --source.",
    )


def hostile(archive: Path, name: str, why: str) -> HostileArchive:
    shown = name if len(name) <= 120 else name[:117] + "..."
    return HostileArchive(
        f"{archive.name} was refused: {shown!r} {why}.",
        why="A source archive has no honest use for this, and unpacking it could write outside its folder "
        "or fill the disk.",
        next="Do not use this archive. Take the release from another place (--source, --git-url).",
    )


class _Budget:
    """Counts what comes out of the decompressor."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        packed = archive.stat().st_size if archive.exists() else 0
        self._most = min(limits.total, max(limits.ratio_floor, packed * limits.ratio))
        self._packed = packed
        self._taken = 0

    def take(self, count: int) -> None:
        self._taken += count
        if self._taken > self._most:
            raise hostile(
                self._archive,
                self._archive.name,
                f"unpacks to more than {self._most >> 20} MiB from {self._packed >> 10} KiB",
            )


Kind = Literal["file", "dir", "link"]


@dataclass(slots=True)
class _Tree:
    folder: Path
    archive: Path
    select: Select | None
    limits: Limits
    budget: _Budget
    members: int = 0
    kinds: dict[tuple[str, ...], Kind] = field(default_factory=dict)
    spelled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    links: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Check one member and write it, if it is a file."""
        self.members += 1
        if self.members > self.limits.members:
            raise hostile(self.archive, self.archive.name, f"has more than {self.limits.members} members")
        if entry.kind == "other":
            raise hostile(self.archive, entry.name, "is a device, a pipe or something else that is no file")
        parts = self.parts_of(entry.name)
        if not parts:
            if entry.kind == "dir":
                return
            raise hostile(self.archive, entry.name, "has no name")
        self.claim(entry.name, parts, entry.kind)
        if entry.kind == "dir":
            if self.select is None:
                self.folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)
        elif entry.kind == "symlink":
            self.links[parts] = entry.target
        elif self.wanted(parts):
            target = self.folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "hardlink":
                self.copy(entry, target)
            else:
                _write(entry, target)

    def parts_of(self, name: str) -> tuple[str, ...]:
        """The components of a member's name, or HostileArchive."""
        if name.startswith("/"):
            raise hostile(self.archive, name, "is an absolute path")
        if "\\" in name or (len(name) > 1 and name[1] == ":"):
            raise hostile(self.archive, name, "is a path of another system")
        if not name.isprintable():  # control characters, and bytes that are no UTF-8
            raise hostile(self.archive, name, "has control characters or broken UTF-8 in its name")
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if ".." in parts:
            raise hostile(self.archive, name, "leaves its folder")
        if len(name.encode()) > _MAX_PATH or any(len(part.encode()) > _MAX_NAME for part in parts):
            raise hostile(self.archive, name, "has an absurdly long name")
        return parts

    def claim(self, name: str, parts: tuple[str, ...], kind: str) -> None:
        """Take the member's place in the tree; nobody else may have it, under any spelling."""
        for depth in range(1, len(parts) + 1):
            here = parts[:depth]
            last = depth == len(parts)
            mine: Kind = "dir" if not last or kind == "dir" else "link" if kind == "symlink" else "file"
            known = self.kinds.get(here)
            if known is None:
                folded = unicodedata.normalize("NFC", "/".join(here)).casefold()
                if self.spelled.setdefault(folded, here) != here:
                    raise hostile(self.archive, name, "exists a second time, spelled differently")
                self.kinds[here] = mine
            elif known != "dir" and not last:
                raise hostile(self.archive, name, f"lies below a {known}")
            elif known != "dir" or mine != "dir":
                raise hostile(self.archive, name, "exists a second time")

    def wanted(self, parts: tuple[str, ...]) -> bool:
        # The top folder is known at the end only; a file too many does no harm.
        return self.select is None or self.select("/".join(parts[1:])) or self.select("/".join(parts))

    def copy(self, entry: Entry, target: Path) -> None:
        """A hard link becomes a copy: files of a tree that is to be patched must not share their content."""
        parts = self.parts_of(entry.target)
        if self.kinds.get(parts) != "file" or parts == self.parts_of(entry.name):
            raise hostile(self.archive, entry.name, "is a hard link to something that is no file before it")
        source = self.folder.joinpath(*parts)
        if not source.exists():
            raise SourceError(
                f"{self.archive.name} cannot be read in part: {entry.name} is a hard link.",
                next="Pack it again without hard links (tar --hard-dereference).",
            )
        self.budget.take(source.stat().st_size)
        shutil.copy2(source, target)

    def finish(self) -> Path:
        """Make the links; return the folder that is the root of the tree."""
        tops = {parts[0] for parts in self.kinds}
        if not tops:
            raise SourceError(f"{self.archive.name} is empty.", next="Give another --source.")
        top = next(iter(tops))
        stripped = len(tops) == 1 and self.kinds[(top,)] == "dir"
        depth = 1 if stripped else 0
        for parts, target in self.links.items():
            problem = link_problem(parts, target, lambda place: self.kinds.get(place) == "link", depth=depth)
            if problem:
                raise hostile(self.archive, "/".join(parts), problem)
        for parts, target in self.links.items():
            if self.wanted(parts):
                path = self.folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target)
        for parts in self.links:
            try:
                self.folder.joinpath(*parts).stat()
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise hostile(
                        self.archive, "/".join(parts), "is a link that leads back to itself"
                    ) from error
        root = self.folder / top if stripped else self.folder
        root.mkdir(exist_ok=True)
        return root


def _write(entry: Entry, target: Path) -> None:
    with entry.open() as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, READ_LIMIT // 2)
        if writer.tell() != entry.size:
            raise EOFError(f"{entry.name} has {writer.tell()} bytes instead of {entry.size}")
    if entry.executable:
        mode = stat.S_IMODE(target.stat().st_mode)
        target.chmod(mode | (mode & 0o444) >> 2)
    when = min(max(entry.mtime, 0), _MAX_MTIME)
    with suppress(OverflowError):
        utime(target, (when, when))


__all__ = ["LIMITS", "Limits", "extract"]
