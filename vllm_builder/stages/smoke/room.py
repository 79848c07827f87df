"""The folder of one smoke test, which is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_builder.errors import SettingsError
from vllm_builder.fs import make_dir, os_errors

_LOCK = "in-use"
_PREFIX = "vb-"
_SCRATCH = "scratch"
"""File that names the folder which lies elsewhere."""


@dataclass(frozen=True, slots=True)
class Room:
    """``root`` holds the environment; ``work`` is the current folder of the programs; ``scratch`` their TMPDIR."""

    root: Path
    scratch: Path
    """Of a short path: sockets have names of at most 108 bytes."""

    @property
    def environment(self) -> Path:
        return self.root / "env"

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@contextlib.contextmanager
def room(folder: Path, keep: Path | None = None) -> Iterator[Room]:
    """A room below ``folder``, or at ``keep``, which is then left.

    What an earlier test could not remove, because it was killed, is removed first.

    Raises:
        SettingsError: ``keep`` holds something.
        NoSpace, NotWritable
    """
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise SettingsError(
                f"{keep} is not empty.", why="--keep takes a new folder.", next="Remove it, or name another."
            )
        with _furnished(make_dir(keep).absolute()) as made:
            yield made
        return
    root, lock = _claim(make_dir(folder))
    try:
        with _furnished(root) as made:
            yield made
    finally:
        _remove(root)
        lock.release()


@contextlib.contextmanager
def idle(room: Path) -> Iterator[None]:
    """Holds a room that no test uses any more, so that it may be removed; its folder elsewhere goes here.

    Raises:
        filelock.Timeout: a test is running in it.
    """
    with FileLock(room / _LOCK).acquire(timeout=0):
        _remove_scratch(room)
        yield


def _claim(folder: Path) -> tuple[Path, FileLock]:
    with os_errors(f"making a folder in {folder}"), FileLock(folder / "rooms.lock"):
        for old in folder.glob("room-*"):
            with contextlib.suppress(Timeout, OSError), idle(old):
                _remove(old)
        root = folder / f"room-{os.getpid()}-{secrets.token_hex(4)}"
        root.mkdir()
        lock = FileLock(root / _LOCK)
        lock.acquire(timeout=10)
    return root, lock


@contextlib.contextmanager
def _furnished(root: Path) -> Iterator[Room]:
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        (root / _SCRATCH).write_text(str(scratch))
        made = Room(root, scratch)
        for path in (made.work, made.logs):
            path.mkdir()
        yield made
    finally:
        _remove(scratch)


def _remove_scratch(room: Path) -> None:
    with contextlib.suppress(OSError):
        scratch = Path((room / _SCRATCH).read_text())
        if scratch.is_absolute() and scratch.name.startswith(_PREFIX):
            _remove(scratch)


def _remove(path: Path) -> None:
    # Gigabytes: a second Ctrl-C in the middle of it must not leave half of them.
    while path.exists():
        try:
            shutil.rmtree(path, ignore_errors=True)
            return
        except KeyboardInterrupt:
            continue
