"""An index in a folder: locks and atomic renames."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock

from vllm_builder.errors import StorageFailed
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.index.storage.base import Blob, Changed, Exists, Stat, Token

_PRIVATE: Final = ".index"
"""Locks, and what is being written; not part of the index."""
_CHUNK: Final = 1 << 20
_DOING: Final = "writing to the index"


class Folder:
    """See :class:`vllm_builder.index.storage.base.Storage`.

    A file is written beside its place under a temporary name, brought to the disk and renamed, so that a publisher that
    is ended at any point leaves whole files only.
    """

    slash_keys = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, key: str, *, limit: int | None = None) -> Blob | None:
        try:
            with os_errors(f"reading {key} of the index"), self._path(key).open("rb") as file:
                data = file.read()
        except Exception as error:
            if _absent(error):
                return None
            raise
        return Blob(data if limit is None else data[:limit], _token(data))

    def stat(self, key: str) -> Stat | None:
        path = self._path(key)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(key, found.st_size, found.st_mtime) if path.is_file() else None

    def chunks(self, key: str) -> Iterator[bytes]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None
        with os_errors(f"reading {key} of the index"), file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def create(self, key: str, data: bytes | Path, *, content_type: str, cache_control: str) -> None:
        del content_type, cache_control
        path = self._path(key)
        if path.exists():
            raise Exists(key)
        with self._written(data) as temporary, os_errors(_DOING):
            self._parent(path)
            try:
                # Unlike a rename, a link fails where there is one already.
                os.link(temporary, path)
            except FileExistsError:
                raise Exists(key) from None
            _to_disk(path.parent)

    def replace(
        self, key: str, data: bytes, *, content_type: str, cache_control: str, token: Token | None
    ) -> Token:
        del content_type, cache_control
        path = self._path(key)
        with self._written(data) as temporary, self._lock(key), os_errors(_DOING):
            try:
                found: Token | None = _token(path.read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                found = None
            if found != token:
                raise Changed(key)
            self._parent(path)
            os.replace(temporary, path)  # noqa: PTH105 (the one name for it)
            _to_disk(path.parent)
        return _token(data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with os_errors(_DOING):
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    for parent in path.parents:
                        if parent == self.root:
                            break
                        parent.rmdir()

    def list(self, prefix: str) -> Iterator[Stat]:
        base = self._path(prefix) if prefix else self.root
        for folder, folders, files in os.walk(base):
            if Path(folder) == self.root and _PRIVATE in folders:
                folders.remove(_PRIVATE)
            folders.sort()
            for name in sorted(files):
                path = Path(folder) / name
                with suppress(FileNotFoundError):
                    found = path.lstat()
                    yield Stat(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def _path(self, key: str) -> Path:
        parts = key.rstrip("/").split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise StorageFailed(f"{key!r} is no key of an index.", why="It would leave the folder.")
        return self.root.joinpath(*parts)

    def _parent(self, path: Path) -> None:
        """Made at the last moment; another process may remove the empty folder in between."""
        for _ in range(100):
            make_dir(path.parent)
            if path.parent.is_dir():
                return

    @contextmanager
    def _written(self, data: bytes | Path) -> Iterator[str]:
        folder = make_dir(self.root / _PRIVATE / "tmp")
        with os_errors(_DOING):
            fd, temporary = tempfile.mkstemp(prefix=f"{os.getpid()}-{secrets.token_hex(4)}-", dir=folder)
        try:
            with os_errors(_DOING), os.fdopen(fd, "wb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as reader:
                        shutil.copyfileobj(reader, file, _CHUNK)
                else:
                    file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            yield temporary
        finally:
            Path(temporary).unlink(missing_ok=True)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        folder = make_dir(self.root / _PRIVATE / "locks")
        name = hashlib.sha256(key.encode()).hexdigest()[:2]
        # A lock of the kernel's: it goes when its process goes, however it is ended.
        with FileLock(folder / name, mode=0o666):
            yield


def _token(data: bytes) -> Token:
    return hashlib.sha256(data).hexdigest()


def _absent(error: BaseException) -> bool:
    cause = error.__cause__ if error.__cause__ is not None else error
    return isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError)


def _to_disk(folder: Path) -> None:
    """Bring the folder's list of names to the disk, as far as its file system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
