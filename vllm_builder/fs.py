"""Files: atomic writes, hashes, and errors that name their cure."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_builder.errors import NoSpace, NotWritable, from_os_error

_CHUNK = 1 << 20
_REMOVING = re.compile(r"\..+\.removing-\d+(-[0-9a-f]+)?")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal characters."""
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= _CHUNK:
            # Trees have thousands of small files; for these hashlib's own way costs more than the hash.
            return hashlib.sha256(file.read()).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Turn any OSError inside into a :class:`~vllm_builder.errors.BuilderError` that says what was done.

    Raises:
        NoSpace, NotWritable, BuilderError
    """
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing) from error


def make_dir(path: Path) -> Path:
    """``mkdir -p`` that fails with a clear error.

    Raises:
        NotWritable, NoSpace
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = from_os_error(error, f"creating the folder {path}")
        if isinstance(found, NoSpace):
            raise found from error
        # Whatever else the system calls it (a file in the way, no such device), it cannot be written to.
        raise NotWritable(
            f"The folder {path} cannot be created.",
            why=f"{error.strerror or error} ({error.filename}).",
            next="Choose a folder that can be written to with --workspace, --out or --cache-dir.",
        ) from error
    return path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, fsync, rename.

    The mode is that of the file it replaces, or 0o666 less the umask for a new one. A pipe or device is written to
    and stays what it is.

    Raises:
        NotWritable, NoSpace, BuilderError
    """
    raw = data.encode() if isinstance(data, str) else data
    if path.is_dir():
        raise NotWritable(
            f"{path} is a folder.",
            why="A file was to be written there.",
            next=f"Name a file, in that folder or elsewhere: {path / 'NAME'}.",
        )
    make_dir(path.parent)
    with os_errors(f"writing {path}"):
        if path.exists() and not path.is_file():
            path.write_bytes(raw)
            return
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def copy_atomic(source: Path, dest: Path) -> None:
    """Copy a file's bytes so that ``dest`` is never seen half-written."""
    make_dir(dest.parent)
    with os_errors(f"writing {dest}"):
        fd, temporary = tempfile.mkstemp(prefix=f".{dest.name}.", dir=dest.parent)
        try:
            with source.open("rb") as reader, os.fdopen(fd, "wb") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)
                writer.flush()
                os.fsync(writer.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(dest)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def remove_tree(path: Path) -> None:
    """Remove a folder; first rename it, so that a half-removed one is never taken for a whole one.

    Folders beside it that a killed process had renamed and did not come to remove are removed too.
    """
    with os_errors(f"removing {path}"):
        if path.exists():
            # A process id alone comes again, in containers sooner than later.
            path.rename(path.with_name(f".{path.name}.removing-{os.getpid()}-{secrets.token_hex(4)}"))
        if not path.parent.is_dir():
            return
        for doomed in path.parent.iterdir():
            if _REMOVING.fullmatch(doomed.name):
                shutil.rmtree(doomed, onerror=_unless_gone)


def _unless_gone(function: object, path: str, problem: tuple[Any, BaseException, Any]) -> None:
    """Another process may be removing the same folder."""
    del function, path
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]


def walk_files(root: Path, left_out: Callable[[str, bool], bool]) -> dict[str, os.stat_result]:
    """All files and links below a folder: relative path -> lstat.

    Args:
        left_out: is given the name of a file or folder, and whether it lies directly in ``root``.

    Raises:
        BuilderError
    """
    found: dict[str, os.stat_result] = {}

    def walk(folder: str, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if left_out(entry.name, not prefix):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    walk(entry.path, f"{prefix}{entry.name}/")
                else:
                    found[f"{prefix}{entry.name}"] = entry.stat(follow_symlinks=False)

    with os_errors(f"reading {root}"):
        walk(os.fspath(root), "")
    return found


def _umask() -> int:
    # There is no call that only reads the umask.
    mask = os.umask(0)
    os.umask(mask)
    return mask
