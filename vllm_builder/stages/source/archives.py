"""Members of tar and zip files in their order, read once from front to end."""

from __future__ import annotations

import bz2
import calendar
import gzip
import io
import math
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from vllm_builder.errors import HostileArchive, SourceError

READ_LIMIT: Final = 1 << 16
"""The most that is held in memory at once; also the longest header of a member that is accepted."""
_BLOCK: Final = 512
_MAX_GLOBAL_HEADERS: Final = 64

Take = Callable[[int], None]
"""Told the number of bytes that came out of the decompressor; raises when it is too much."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. ``open`` may be called once, before the next member is asked for."""

    name: str
    kind: Literal["file", "dir", "symlink", "hardlink", "other"]
    size: int
    executable: bool
    mtime: float
    target: str
    open: Callable[[], IO[bytes]]


def entries_of(archive: Path, take: Take, dest: Path) -> Iterator[Entry]:
    """All members of an archive, whose kind is told by its first bytes.

    Args:
        dest: the folder that they are meant for; the standard library's own judgement of links wants it.

    Raises:
        HostileArchive, SourceError, and whatever the decompressors raise over damaged data.
    """
    with archive.open("rb") as file:
        magic = file.read(265)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip(file, take)
        elif magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield from _tar(cast(IO[bytes], unpacked), take, dest)
        elif magic.startswith(b"BZh"):
            with bz2.BZ2File(file) as unpacked2:
                yield from _tar(cast(IO[bytes], unpacked2), take, dest)
        elif magic[257:262] == b"ustar":
            yield from _tar(file, take, dest)
        else:
            raise SourceError(
                f"{archive.name} is no archive of a known kind.",
                next="Give a .tar.gz, .tar.bz2, .tar or .zip, or a folder.",
            )


class _Forward(io.RawIOBase):
    """A decompressed stream that goes forward only, counts, and refuses large reads.

    tarfile reads a member's extended header with one call, however long the header claims to be.
    """

    def __init__(self, file: IO[bytes], take: Take) -> None:
        super().__init__()
        self._file, self._take, self._at = file, take, 0
        self.last_block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= READ_LIMIT:
            raise HostileArchive(
                "The archive was refused: the header of one of its members is absurdly long.",
                next="Take the release from another place.",
            )
        data = self._file.read(size)
        self._at += len(data)
        self._take(len(data))
        if size == _BLOCK:
            self.last_block = data
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence != 0 or offset < self._at:
            raise tarfile.ReadError("a member has a negative size")
        while self._at < offset:
            data = self._file.read(min(READ_LIMIT, offset - self._at))
            if not data:
                break
            self._at += len(data)
            self._take(len(data))
        return self._at

    def drain(self) -> None:
        """Read to the end: only there gzip compares its checksum."""
        while data := self._file.read(READ_LIMIT):
            self._take(len(data))


def _tar(file: IO[bytes], take: Take, dest: Path) -> Iterator[Entry]:
    stream = _Forward(file, take)
    # Python 3.11.0 to 3.11.3 have no such filter; our own rules are stricter anyway.
    judge = getattr(tarfile, "data_filter", None)
    try:
        with tarfile.TarFile(fileobj=cast(IO[bytes], stream), mode="r", errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # else it keeps every header
                if len(tar.pax_headers) > _MAX_GLOBAL_HEADERS:
                    raise tarfile.ReadError("too many global headers")
                if judge and (member.issym() or member.islnk()):
                    judge(member, str(dest))
                yield _tar_entry(tar, member)
            # tarfile takes a broken header for the end; the end is a block of zeros.
            if stream.last_block != bytes(_BLOCK):
                raise tarfile.ReadError("it ends in the middle or has a broken header")
            stream.drain()
    except tarfile.TarError as error:
        if isinstance(error, getattr(tarfile, "FilterError", ())):
            raise HostileArchive(
                "The archive was refused: one of its links leaves the tree.",
                why=str(error),
                next="Take the release from another place (--source, --git-url).",
            ) from error
        raise EOFError(str(error)) from error


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind: Literal["file", "dir", "symlink", "hardlink", "other"] = "other"
    if member.isreg() and not member.issparse():
        kind = "file"
    elif member.isdir():
        kind = "dir"
    elif member.issym():
        kind = "symlink"
    elif member.islnk():
        kind = "hardlink"

    def open_() -> IO[bytes]:
        found = tar.extractfile(member)
        assert found is not None  # a regular file
        return found

    mtime = float(member.mtime)
    return Entry(
        name=member.name,
        kind=kind,
        size=member.size,
        executable=bool(member.mode & stat.S_IXUSR),
        mtime=mtime if math.isfinite(mtime) else 0.0,
        target=member.linkname,
        open=open_,
    )


class _Counted(io.RawIOBase):
    def __init__(self, file: IO[bytes], take: Take) -> None:
        super().__init__()
        self._file, self._take = file, take

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(READ_LIMIT if size is None or size < 0 else size)
        self._take(len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _zip(file: IO[bytes], take: Take) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                yield _zip_entry(archive, info, take)
    except (zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise EOFError(str(error)) from error


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, take: Take) -> Entry:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    kind: Literal["file", "dir", "symlink", "hardlink", "other"] = "dir" if info.is_dir() else "file"
    target = ""
    form = stat.S_IFMT(mode)
    if form == stat.S_IFLNK:
        kind = "symlink"
        with archive.open(info) as reader:
            target = reader.read(READ_LIMIT).decode("utf-8", "surrogateescape")
    elif form not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = "other"
    try:
        mtime = float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except (ValueError, OverflowError):
        mtime = 0.0
    return Entry(
        name=info.orig_filename,
        kind=kind,
        size=info.file_size,
        executable=bool(mode & stat.S_IXUSR),
        mtime=mtime,
        target=target,
        open=lambda: cast(IO[bytes], _Counted(archive.open(info), take)),
    )
