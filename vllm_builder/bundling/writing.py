"""Writing the archive: whole under its name, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from vllm_builder.bundling.model import MANIFEST, BundledFile
from vllm_builder.errors import HashMismatch, NoSpace, NotWritable
from vllm_builder.events import Emit, Progress
from vllm_builder.fs import make_dir, os_errors, sha256_file

_ROOM = 1 << 20
"""For headers and the manifest."""


def listed(files: Mapping[str, Path]) -> tuple[BundledFile, ...]:
    """The files of a bundle with sizes and hashes, by path."""
    found = []
    for path, file in sorted(files.items()):
        with os_errors(f"reading {file}"):
            found.append(BundledFile(path=path, size=file.stat().st_size, sha256=sha256_file(file)))
    return tuple(found)


def check_output(output: Path) -> None:
    """Raise NotWritable where a bundle could not be put: known before hours of downloads, not after.

    Raises:
        NotWritable
    """
    if os.path.lexists(output):
        raise NotWritable(
            f"{output} exists already.",
            why="A bundle never takes the place of another file.",
            next="Give another name with --output, or remove that file.",
        )
    folder = make_dir(output.parent)
    if not os.access(folder, os.W_OK):
        raise NotWritable(f"{folder} cannot be written to.", next="Give another place with --output.")


def write_archive(
    output: Path, manifest: bytes, files: tuple[BundledFile, ...], places: Mapping[str, Path], emit: Emit
) -> str:
    """Write a plain tar that depends on nothing but its content: wheels and packs are compressed already.

    Returns:
        the archive's SHA-256.

    Raises:
        NoSpace, NotWritable
        HashMismatch: a file changed since it was listed.
    """
    total = sum(file.size for file in files)
    free = shutil.disk_usage(output.parent).free
    if free < total + _ROOM:
        raise NoSpace(
            f"The bundle takes {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {output.parent}.",
            next="Free some space, or give a place on a larger disk with --output.",
        )
    with os_errors(f"writing {output}"):
        fd, temporary = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                hashing = _Hashing(file)
                _write(hashing, manifest, files, places, _Counter(emit, output.name, total))
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            check_output(output)
            Path(temporary).replace(output)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return hashing.digest.hexdigest()


def _write(
    file: _Hashing,
    manifest: bytes,
    files: tuple[BundledFile, ...],
    places: Mapping[str, Path],
    count: _Counter,
) -> None:
    stream = cast(IO[bytes], file)
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_header(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for one in files:
            with places[one.path].open("rb") as content:
                reader = _Reading(content, count, one.path)
                archive.addfile(_header(one.path, one.size), cast(IO[bytes], reader))
                if reader.digest.hexdigest() != one.sha256 or content.read(1):
                    raise HashMismatch(
                        f"{places[one.path]} changed while the bundle was written.",
                        next="Run the same command again.",
                    )


def _header(path: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = 0o644
    return info


class _Hashing:
    """Writes on, and hashes what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()


class _Counter:
    def __init__(self, emit: Emit, name: str, total: int) -> None:
        self._emit, self._name, self._total = emit, name, total
        self._done, self._next = 0, 0.0

    def __call__(self, count: int, current: str) -> None:
        self._done += count
        now = time.monotonic()
        if now >= self._next or self._done == self._total:
            self._next = now + 0.2
            event: dict[str, Any] = {"done": self._done, "total": self._total, "current": (current,)}
            self._emit(Progress(stage="bundle", task=f"Writing {self._name}", unit="B", **event))


class _Reading:
    def __init__(self, file: IO[bytes], count: _Counter, path: str) -> None:
        self._file, self._count, self._path = file, count, path
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self._count(len(data), self._path)
        return data
