"""A wheel is read and written again: the same members give the same bytes, whoever packed them before.

Order: the package by name, then ``.dist-info`` (the wheel specification wants it at the end), RECORD last. All
members have one time and one of two modes, and are compressed by zlib at one level. What zlib makes of the same bytes
can differ between its versions and its relatives (zlib-ng), so it is named in the result. ISA-L would be
faster, but chooses its code, and with it its output, by the processor.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from vllm_builder.errors import WheelError
from vllm_builder.fs import make_dir, os_errors

_LEVEL: Final = 6
COMPRESSOR: Final = f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level {_LEVEL}"
_CHUNK: Final = 1 << 20
_PLAIN, _EXECUTABLE = 0o644, 0o755
_UNIX: Final = 3
_BROKEN = (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError)


class Members:
    """The files of a wheel, some of them replaced. Large ones are read when they are written."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self._old: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.filename in self._old:
                raise WheelError(
                    f"{name} holds {info.filename} twice.", why="Which one counts is anybody's guess."
                )
            self._old[info.filename] = info
        self._new: dict[str, bytes] = {}
        found = sorted(
            {n.split("/")[0] for n in self._old if n.endswith(".dist-info/WHEEL") and n.count("/") == 1}
        )
        if len(found) != 1:
            raise WheelError(f"{name} is no wheel: it has {len(found)} .dist-info folders with a file WHEEL.")
        self.dist_info = found[0]

    def names(self) -> Iterable[str]:
        return {*self._old, *self._new}

    def read(self, name: str) -> bytes:
        """Raises WheelError where there is no such member."""
        if name in self._new:
            return self._new[name]
        if name not in self._old:
            raise WheelError(f"The wheel has no {name}.", why="Every wheel has one.")
        return self._archive.read(self._old[name])

    def replace(self, name: str, content: bytes) -> None:
        self._new[name] = content

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self._new[name]) if name in self._new else self._archive.open(self._old[name])

    def size(self, name: str) -> int:
        return len(self._new[name]) if name in self._new else self._old[name].file_size

    def executable(self, name: str) -> bool:
        old = self._old.get(name)
        return old is not None and bool((old.external_attr >> 16) & 0o111)


def open_members(wheel: Path) -> tuple[zipfile.ZipFile, Members]:
    """Open the wheel that setup.py made; the caller closes the archive.

    Raises:
        WheelError: it is no whole wheel.
    """
    with os_errors(f"reading {wheel}"), refusing(wheel):
        archive = zipfile.ZipFile(wheel)
        try:
            return archive, Members(archive, wheel.name)
        except BaseException:
            archive.close()
            raise


@contextmanager
def refusing(wheel: Path) -> Iterator[None]:
    """What zipfile raises for a damaged archive becomes a WheelError."""
    try:
        yield
    except _BROKEN as error:
        raise WheelError(f"{wheel.name} cannot be read.", why=str(error)) from error


def write(members: Members, out: Path, *, epoch: int) -> None:
    """Write the wheel whole or not at all. RECORD is made anew; signatures of the old one are left out.

    Raises:
        NoSpace, NotWritable
    """
    make_dir(out.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    with os_errors(f"writing {out}"):
        try:
            with temporary.open("wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    _fill(archive, members, epoch)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def _fill(archive: zipfile.ZipFile, members: Members, epoch: int) -> None:
    record = f"{members.dist_info}/RECORD"
    without = {record, f"{record}.jws", f"{record}.p7s"}
    hashes: dict[str, tuple[str, int]] = {}
    names = sorted(set(members.names()) - without, key=lambda name: (_late(name, members), name))
    for name in names:
        hashes[name] = _add(
            archive, name, members.open(name), members.size(name), members.executable(name), epoch
        )
    content = _record(hashes, record)
    _add(archive, record, io.BytesIO(content), len(content), False, epoch)


def _late(name: str, members: Members) -> bool:
    return name.startswith(f"{members.dist_info}/")


def _add(
    archive: zipfile.ZipFile, name: str, content: IO[bytes], size: int, executable: bool, epoch: int
) -> tuple[str, int]:
    info = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | (_EXECUTABLE if executable else _PLAIN)) << 16
    info.file_size = size
    digest, written = hashlib.sha256(), 0
    with content, archive.open(info, "w") as writer:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            written += writer.write(chunk)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode(), written


def _record(hashes: Mapping[str, tuple[str, int]], record: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, (digest, size) in hashes.items():
        writer.writerow((name, f"sha256={digest}", size))
    writer.writerow((record, "", ""))
    return text.getvalue().encode()
