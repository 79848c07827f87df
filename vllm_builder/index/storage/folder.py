"""An index in a folder: locks and atomic renames."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from vllm_builder.errors import NoSpace, NotWritable, StorageFailed
from vllm_builder.index.storage.base import Altered, Blob, Changed, Exists, Stat, Token

_PRIVATE: Final = ".index"
"""Locks, and what is being written; not part of the index."""
_CHUNK: Final = 1 << 20
_LEFTOVER: Final = 60.0
"""Seconds after which an unlocked temporary file belongs to nobody."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class _Written:
    path: str
    sha256: str


class Folder:
    """See :class:`vllm_builder.index.storage.base.Storage`.

    A file is written under a temporary name in ``.index/tmp``, brought to the disk and renamed, so that a publisher that
    is ended at any point leaves whole files only. While it is written it is locked: what is there without a lock was
    left behind, and the next writer removes it.
    """

    slash_keys = False
    at_once = 1

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._real: str | None = None
        self._tidied = False

    def read(self, key: str, *, limit: int | None = None) -> Blob | None:
        path = self._path(key)
        with self._errors(f"reading {key}"):
            try:
                data = path.read_bytes()
            except _ABSENT:
                return None
        return Blob(data if limit is None else data[:limit], _token(data))

    def stat(self, key: str) -> Stat | None:
        path = self._path(key)
        with self._errors(f"looking at {key}"):
            try:
                found = path.stat()
            except _ABSENT:
                return None
            return Stat(key, found.st_size, found.st_mtime) if path.is_file() else None

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._errors(f"reading {key}"):
            try:
                file = path.open("rb")
            except _ABSENT:
                raise KeyError(key) from None
            with file:
                while chunk := file.read(_CHUNK):
                    yield chunk

    def create(
        self, key: str, data: bytes | Path, *, content_type: str, cache_control: str, sha256: str = ""
    ) -> None:
        del content_type, cache_control
        path = self._path(key)
        if os.path.lexists(path):
            raise Exists(key)
        with self._written(data) as written, self._errors(f"writing {key}"):
            if sha256 and written.sha256 != sha256:
                raise Altered(key)
            try:
                # Unlike a rename, a link fails where there is one already.
                self._put(path, lambda: os.link(written.path, path))
            except FileExistsError:
                raise Exists(key) from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with self._lock(key):
                    if os.path.lexists(path):
                        raise Exists(key) from None
                    self._put(path, lambda: os.rename(written.path, path))  # noqa: PTH104

    def replace(
        self, key: str, data: bytes, *, content_type: str, cache_control: str, token: Token | None
    ) -> Token:
        del content_type, cache_control
        path = self._path(key)
        with self._written(data) as written, self._lock(key), self._errors(f"writing {key}"):
            try:
                found: Token | None = _token(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                found = None
            if found != token:
                raise Changed(key)
            self._put(path, lambda: os.replace(written.path, path))  # noqa: PTH105
            return written.sha256

    def content_type(self, key: str) -> str | None:
        del key
        return None

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._errors(f"deleting {key}"):
                with suppress(NotADirectoryError):
                    path.unlink(missing_ok=True)
                with suppress(OSError):
                    for parent in path.parents:
                        if parent == self.root:
                            break
                        parent.rmdir()

    def list(self, prefix: str) -> Iterator[Stat]:
        base = self._path(prefix) if prefix else self.root

        def failed(error: OSError) -> None:
            # A folder may go while it is walked; one that may not be read must not look empty.
            if not isinstance(error, _ABSENT):
                raise error

        with self._errors(f"listing {prefix or 'everything'}"):
            for folder, folders, files in os.walk(base, onerror=failed):
                if Path(folder) == self.root and _PRIVATE in folders:
                    folders.remove(_PRIVATE)
                folders.sort()
                for name in sorted(files):
                    path = Path(folder) / name
                    with suppress(FileNotFoundError):
                        found = path.lstat()
                        yield Stat(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def sweep(self, *, before: float, dry_run: bool = False) -> tuple[Stat, ...]:
        """Remove what publishers that were ended have left half-written.

        Args:
            before: seconds since the epoch; what was written to later is left.
        """
        found = []
        folder = self.root / _PRIVATE / "tmp"
        if folder.is_dir() and not dry_run:
            # This machine's clock may be ahead of the file system's, and some files are new.
            with self._errors("looking for what was left half-written"):
                before = min(before, _clock_of(folder) - _LEFTOVER)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            # Its writer may be done with it in this moment.
            with self._errors(f"deleting {path.name}"), suppress(FileNotFoundError):
                there = path.lstat()
                if there.st_mtime <= before and _remove_unlocked(path, dry_run=dry_run):
                    found.append(Stat(path.relative_to(self.root).as_posix(), there.st_size, there.st_mtime))
        return tuple(found)

    def _path(self, key: str) -> Path:
        parts = key.rstrip("/").split("/")
        if (
            any(part in {"", ".", ".."} or "\0" in part or "\\" in part for part in parts)
            or parts[0] == _PRIVATE
        ):
            raise StorageFailed(f"{key!r} is no key of an index.", why="It would leave the index.")
        path = self.root.joinpath(*parts)
        if self._real is None:
            self._real = os.path.realpath(self.root)
        # A link may lead elsewhere within the index, never out of it.
        real = os.path.realpath(path)
        if not real.startswith(self._real.rstrip("/") + "/"):
            raise StorageFailed(
                f"{key} of the index {self.url} leads out of it.",
                why=f"It is, or lies behind, a symbolic link to {real}.",
                next="Put the file itself there in place of the link.",
            )
        return path

    def _put(self, path: Path, move: Callable[[], None]) -> None:
        for left in reversed(range(100)):
            # Another process may remove the folder while it is empty.
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory", error.filename) from error
            try:
                move()
            except FileNotFoundError:
                if not left:
                    raise
                continue
            break
        _to_disk(path.parent)

    @contextmanager
    def _written(self, data: bytes | Path) -> Iterator[_Written]:
        """The data under a temporary name, on the disk and locked."""
        folder = self.root / _PRIVATE / "tmp"
        with self._errors("writing to the index"):
            folder.mkdir(parents=True, exist_ok=True)
            if not self._tidied:
                self._tidied = True
                _tidy(folder)
            fd, temporary = tempfile.mkstemp(prefix=f"{os.getpid()}-{secrets.token_hex(4)}-", dir=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                hashed = hashlib.sha256()
                with self._errors("writing to the index"):
                    with suppress(OSError):
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for chunk in _chunks(data):
                        hashed.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                yield _Written(temporary, hashed.hexdigest())
        finally:
            Path(temporary).unlink(missing_ok=True)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        name = hashlib.sha256(key.encode()).hexdigest()[:2]
        with self._errors("locking the index"):
            folder = self.root / _PRIVATE / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            # A lock of the kernel's: it goes when its process goes, however it is ended.
            lock = FileLock(folder / name, mode=0o666)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, *_ABSENT) as error:
            raise StorageFailed(
                f"The index {self.url} failed while {doing}.",
                why=f"{error.strerror}: {error.filename}.",
                next="A file stands where a folder should be, or the folder went away: look at it.",
            ) from error
        except OSError as error:
            why = f"{error.strerror or error} ({error.filename})." if error.filename else f"{error.strerror}."
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise NoSpace(
                    f"No space is left in {self.url} while {doing}.",
                    why=why,
                    next="Free some space and run the same command again: the index is whole, and what was uploaded stays.",
                ) from error
            if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise NotWritable(
                    f"{self.url} may not be used for {doing}.",
                    why=why,
                    next="Publish as a user who may write to that folder, or name another one with --to.",
                ) from error
            raise StorageFailed(f"The index {self.url} failed while {doing}.", why=why) from error


def _chunks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _tidy(folder: Path) -> None:
    """Remove what killed writers left. By the file system's own clock, which may not be this machine's."""
    with suppress(OSError):
        now = _clock_of(folder)
        for left in folder.iterdir():
            with suppress(OSError):
                if now - left.stat().st_mtime < _LEFTOVER:
                    continue
                _remove_unlocked(left)


def _clock_of(folder: Path) -> float:
    """What the file system takes for now."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="clock-") as clock:
        return os.fstat(clock.fileno()).st_mtime


def _remove_unlocked(path: Path, *, dry_run: bool = False) -> bool:
    """Remove a file whose writer is gone: one holds a lock as long as it lives. Where locks do not work nothing is removed.

    Returns:
        whether it was removed, or would be.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not dry_run:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _token(data: bytes) -> Token:
    return hashlib.sha256(data).hexdigest()


def _to_disk(folder: Path) -> None:
    """Bring the folder's list of names to the disk, as far as its file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
