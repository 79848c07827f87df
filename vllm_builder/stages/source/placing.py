"""Folders that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vllm_builder.errors import SourceError
from vllm_builder.fs import make_dir, os_errors

_STALE = 3600.0
"""Seconds after which a partial folder of a process that is gone is cleared away."""


@contextmanager
def partial_folder(dest: Path, *, shared: bool = False) -> Iterator[Path]:
    """A new folder beside ``dest`` to build in; the caller renames it, or a folder in it, to ``dest``.

    Whatever is left of it is removed at the end, also after an error or Ctrl-C. What a killed process left
    is removed by a later one.

    Args:
        shared: several processes may make ``dest`` at once; that it exists is no error then.

    Raises:
        SourceError: ``dest`` exists and is not an empty folder.
        NoSpace, NotWritable
    """
    parent = make_dir(dest.parent)
    if not shared and os.path.lexists(dest) and not _is_empty_folder(dest):
        raise SourceError(
            f"{dest} exists already.",
            why="A source tree is only ever put into a new folder, so that nothing of yours is overwritten.",
            next="Name a folder that does not exist, or remove that one.",
        )
    _clear_stale(parent, dest.name)
    with os_errors(f"creating a folder in {parent}"):
        partial = Path(tempfile.mkdtemp(prefix=f".{dest.name}.partial-{os.getpid()}-", dir=parent))
        inner = partial / "tree"
        inner.mkdir()  # mkdtemp's own folder is private; this one has the usual mode
    try:
        yield inner
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_stale(parent: Path, name: str) -> None:
    with suppress(OSError):
        for left in parent.glob(f".{glob.escape(name)}.partial-*"):
            pid = left.name.rpartition(".partial-")[2].partition("-")[0]
            if pid.isdigit() and not _alive(int(pid)) and time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
