"""A shared cache in a folder, of a network file system for example."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from vllm_builder.shared.places.base import Refused, Unreachable

_REFUSALS: Final = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
}


class Folder:
    """See :class:`.base.Place`. Folders and files get the rights of the root, so that a group can share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mine = f"{socket.gethostname()[:40]}-{os.getpid()}"

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            with self._root.joinpath(key).open("rb") as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failure(error) from error

    def write(self, key: str, data: bytes) -> None:
        path = self._root.joinpath(key)
        temporary = path.with_name(f".{path.name[:16]}.{self._mine}-{secrets.token_hex(4)}")
        try:
            mode = self._made(path.parent)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    with suppress(OSError):
                        os.fchmod(file.fileno(), mode & 0o666)
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            raise _failure(error) from error

    def _made(self, folder: Path) -> int:
        """Make a folder below the root; returns the root's rights."""
        self._root.mkdir(parents=True, exist_ok=True)
        mode = self._root.stat().st_mode & 0o7777
        missing = []
        while folder != self._root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with suppress(FileExistsError):
                one.mkdir()
                with suppress(OSError):
                    one.chmod(mode)
        return mode


def _failure(error: OSError) -> Refused | Unreachable:
    if (why := _REFUSALS.get(error.errno or 0)) is not None:
        return Refused(why)
    return Unreachable(error.strerror or type(error).__name__)
