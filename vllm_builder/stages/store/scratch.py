"""Temporary folders of the store: made beside their goal, and swept when their maker is gone."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from vllm_builder.fs import make_dir

_STALE = 24 * 3600.0
"""Seconds after which a folder of another machine counts as left behind."""


def new(root: Path, label: str) -> Path:
    """A fresh folder in ``root/tmp``; its name says which process of which machine made it."""
    parent = make_dir(root / "tmp")
    return Path(tempfile.mkdtemp(prefix=f"{label[:16]}-{_here()}-{os.getpid()}-", dir=parent))


def stale(root: Path) -> list[Path]:
    """The temporary folders whose maker is gone."""
    try:
        found = sorted((root / "tmp").iterdir())
    except OSError:
        return []
    return [path for path in found if _is_stale(path)]


def sweep(root: Path) -> None:
    """Remove what killed processes left behind; what cannot be removed stays."""
    for path in stale(root):
        shutil.rmtree(path, ignore_errors=True)


def discard(root: Path, path: Path) -> None:
    """Remove a folder or file of the store at once: it leaves its place by a rename, then goes.

    Raises:
        OSError: it could not be removed; then it is in its place still, or in ``tmp``.
    """
    trash = new(root, "removed")
    path.rename(trash / path.name)
    shutil.rmtree(trash)


def sync_folder(path: Path) -> None:
    """Make a rename or a new file last over a power cut, where the file system can."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def umask() -> int:
    # There is no call that only reads the umask.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _is_stale(path: Path) -> bool:
    parts = path.name.rsplit("-", 3)
    if len(parts) == 4 and parts[1] == _here() and parts[2].isdigit():
        return not _alive(int(parts[2]))
    try:
        return time.time() - path.stat().st_mtime > _STALE
    except OSError:
        return False


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@cache
def _here() -> str:
    """Where process numbers mean the same: this host, and on Linux this process namespace since boot."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            path = Path(source)
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
        except OSError:
            continue
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
