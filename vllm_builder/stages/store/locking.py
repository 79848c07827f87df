"""One builder per plan: the lock of a digest, and who holds it.

The lock is the kernel's, so it goes when its holder dies, however it dies. Beside it lies a small file
that says who took it, for the one who waits; it is never used to decide anything.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_builder.errors import Busy, NotWritable
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import make_dir, os_errors, write_atomic
from vllm_builder.stages.store.model import Holder, now

if TYPE_CHECKING:
    from filelock import BaseFileLock

_STAGE = "store"
_POLL = 0.1
_REMIND = 600.0


def lock_path(root: Path, digest: str) -> Path:
    return root / "locks" / f"{digest}.lock"


def _holder_path(root: Path, digest: str) -> Path:
    return root / "locks" / f"{digest}.holder"


def holder(root: Path, digest: str) -> Holder:
    """Who took the lock last, as far as it is known."""
    try:
        raw = json.loads(_holder_path(root, digest).read_bytes())
        return Holder(digest, int(raw["pid"]), str(raw["host"]), str(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(digest)


@contextmanager
def hold(
    root: Path, digest: str, *, noun: str = "wheel", timeout: float | None = None, emit: Emit = ignore
) -> Iterator[None]:
    """Hold the lock of ``digest``, waiting for whoever has it.

    Args:
        noun: what is waited for, in the message.
        timeout: seconds to wait at most; None waits for ever, 0 does not wait.

    Raises:
        Busy: someone else still held it after ``timeout``.
        NotWritable: the store cannot be written to, so that nothing could be added either.
    """
    file = _open(root, digest)
    _wait(file, root, digest, noun, timeout, emit)
    try:
        # Only a courtesy to those who wait: a full disk must not stop a build here.
        with suppress(Exception):
            write_atomic(
                _holder_path(root, digest),
                json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}),
            )
        yield
    finally:
        # The lock file itself stays: removing it would let two holders lock two files of one name.
        _holder_path(root, digest).unlink(missing_ok=True)
        file.release()


@contextmanager
def attempt(root: Path, digest: str) -> Iterator[bool]:
    """Take the lock if it is free, and say whether it was; never waits, writes no holder."""
    if not lock_path(root, digest).exists():
        make_dir(root / "locks")
    file = _open(root, digest)
    taken = _try(file, root)
    try:
        yield taken
    finally:
        if taken:
            file.release()


def running(root: Path) -> list[Holder]:
    """The builds that hold a lock of this store now (also those of this process)."""
    found = []
    for path in sorted((root / "locks").glob("*.lock")):
        try:
            with attempt(root, path.stem) as free:
                if not free:
                    found.append(holder(root, path.stem))
        except NotWritable:
            # Someone else's store, only readable: without opening it for writing there is no asking.
            continue
    return found


def _open(root: Path, digest: str) -> BaseFileLock:
    from filelock import FileLock

    make_dir(root / "locks")
    return FileLock(lock_path(root, digest), thread_local=False)


def _try(file: BaseFileLock, root: Path) -> bool:
    from filelock import Timeout

    with os_errors(f"locking the store {root}"):
        try:
            file.acquire(timeout=0)
        except Timeout:
            return False
    return True


def _wait(file: BaseFileLock, root: Path, digest: str, noun: str, timeout: float | None, emit: Emit) -> None:
    began = time.monotonic()
    same, waiting = "the same plan", "Waiting for its wheel."
    if noun != "wheel":
        same, waiting = f"the same {noun}", "Waiting for it."
    told: tuple[Holder, float] | None = None
    while not _try(file, root):
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            who = holder(root, digest)
            raise Busy(
                f"Another build of {same} ({digest[:12]}) is still running after {waited:.0f} s.",
                why=f"The lock is held by {who}.",
                next="Wait until it has ended and run the same command again, or end that process.",
            )
        who = holder(root, digest)
        # A pruner holds the lock for an instant and says nothing about itself: not worth a word.
        known = who.pid is not None or waited >= 1
        if known and (told is None or told[0] != who or waited - told[1] >= _REMIND):
            emit(
                Note(
                    stage=_STAGE,
                    message=f"{same.capitalize()} ({digest[:12]}) is being built by {who}. {waiting}",
                )
            )
            told = (who, waited)
        time.sleep(_POLL)
