"""Results of passes under digests of all that they are made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

VERSION = "1"
"""Part of every digest: change it with whatever changes what is kept."""
_CCCL = re.compile(rb"\b(?:THRUST|CUB)_\d+$")


class Kept:
    """A folder of results under digests. An entry is whole or is not there; a damaged one is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hits = 0
        self.misses = 0
        self.made: list[str] = []

    def get(self, key: str) -> dict[str, bytes] | None:
        try:
            path = self._path(key)
            raw = path.read_bytes()
            os.utime(path)
            sizes, _, packed = raw.partition(b"\n")
            data = zlib.decompress(packed)
            out, at = {}, 0
            for name, size in json.loads(sizes).items():
                out[name], at = data[at : at + size], at + size
        except (OSError, ValueError, AttributeError, zlib.error):
            return None
        return out

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        path = self._path(key)
        head = json.dumps({name: len(data) for name, data in files.items()}).encode()
        # A full disk keeps nothing; the compilation goes on.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, half = tempfile.mkstemp(dir=path.parent, prefix="half-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(head + b"\n" + zlib.compress(b"".join(files.values()), 1))
                os.replace(half, path)  # noqa: PTH105
            except OSError:
                os.unlink(half)  # noqa: PTH108
                raise

    def answer(
        self, kind: str, key: str, make: Callable[[], dict[str, bytes]], names: Names
    ) -> tuple[dict[str, bytes], str]:
        """What is kept under a digest, else what ``make`` makes; what its program said is said again.

        Args:
            key: the digest of all that it is made of, but for ``names``.

        Returns:
            It, and the digest that it has: another one where it holds one of the names.
        """
        found, exact = self.get(key), digest(key, names.archs)
        if found is not None and "exact" in found:
            found, key = self.get(exact), exact
        if found is None:
            self.misses += 1
            self.made.append(kind)
            found = make()
            if key != exact and names.held(found):
                self.put(key, {"exact": b"yes"})
                key = exact
            self.put(key, found)
        else:
            self.hits += 1
        sys.stderr.buffer.write(found.get("said", b""))
        return found, key

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / key[2:]


class Names:
    """The names of namespaces that hold the list of architectures."""

    def __init__(self, words: Sequence[str]) -> None:
        lists = [word.partition("=")[2] for word in words if word.startswith("-D__CUDA_ARCH_LIST__=")]
        self.archs = "_SM_" + "_".join(lists).replace(",", "_")
        self._found = re.compile(re.escape(self.archs.encode()) + rb"(?=(?:_NS)?(?!\w))")

    def taken_out(self, text: bytes) -> bytes:
        """``text`` with each such name as it would be for any list."""
        return self._found.sub(
            lambda m: b"_SM_@" if _CCCL.search(text, max(0, m.start() - 24), m.start()) else m[0], text
        )

    def held(self, files: Mapping[str, bytes]) -> bool:
        """Whether one is in the files in any way, as part of a symbol too."""
        return any(self.archs.encode() in data for data in files.values())


def digest(*parts: bytes | str | Sequence[str]) -> str:
    total = hashlib.sha256(VERSION.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()
