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

VERSION = "2"
"""Part of every digest: change it with whatever changes what is kept."""
_HASH = hashlib.sha256().digest_size
_MARK = re.compile(rb"\x01([mp])(\w+)@(\w*)\x01")
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
            # All of it is checked, the sizes too: wrong ones would move bytes from one file to the next.
            if hashlib.sha256(raw[_HASH:]).digest() != raw[:_HASH]:
                return None
            sizes, _, data = zlib.decompress(raw[_HASH:]).partition(b"\n")
            out, at = {}, 0
            for name, size in json.loads(sizes).items():
                out[name], at = data[at : at + size], at + size
        except (OSError, ValueError, AttributeError, zlib.error):
            return None
        return out

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        path = self._path(key)
        head = json.dumps({name: len(data) for name, data in files.items()}).encode()
        packed = zlib.compress(b"\n".join((head, b"".join(files.values()))), 1)
        # A full disk keeps nothing; the compilation goes on.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, half = tempfile.mkstemp(dir=path.parent, prefix="half-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(packed).digest() + packed)
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
            It, and the digest that it has: another one where it is good for this list alone.
        """
        shared, exact = self.get(key), digest(key, names.archs)
        found = names.put_in(shared) if shared is not None else None
        if found is not None and "exact" in found:
            found, key = self.get(exact), exact
        if found is None:
            self.misses += 1
            self.made.append(kind)
            found = make()
            shared = names.taken_out_of(found)
            if key != exact and shared is None:
                self.put(key, {"exact": b"yes"})
                key = exact
            self.put(key, found if shared is None or key == exact else shared)
        else:
            self.hits += 1
        sys.stderr.buffer.write(found.get("said", b""))
        return found, key

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / key[2:]


class Names:
    """The names of namespaces that hold the list of architectures.

    In symbols they stand with their length before them (29THRUST_300001_SM_1000_1200_NS), in the stub, which is C++,
    also alone. What is kept has a mark in place of both. Anywhere else they are part of what was computed, and
    what holds them so is good for this list alone.
    """

    def __init__(self, words: Sequence[str]) -> None:
        lists = [word.partition("=")[2] for word in words if word.startswith("-D__CUDA_ARCH_LIST__=")]
        self.archs = "_SM_" + "_".join(lists).replace(",", "_")
        self._list = self.archs.encode()
        # In PTX, texts are lists of numbers.
        self._spelled = re.compile(rb",\s*".join(b"%d" % byte for byte in self._list))
        self._found = re.compile(re.escape(self._list) + rb"((?:_NS)?)(?!\w)")
        self._names: set[tuple[bytes, bytes]] = set()

    def taken_out(self, text: bytes) -> bytes:
        """Preprocessed text with each such name as it would be for any list."""

        def replaced(met: re.Match[bytes]) -> bytes:
            before = _CCCL.search(text, max(0, met.start() - 24), met.start())
            if before is None:
                return met[0]
            self._names.add((before[0], met[1]))
            return b"_SM_@" + met[1]

        return self._found.sub(replaced, text)

    def taken_out_of(self, files: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """Results with marks in place of the names; None where one of them is left in any form."""
        out = {}
        for file, data in files.items():
            if b"\x01" in data and self._list in data:
                return None
            for before, after in self._names:
                name = before + self._list + after
                mark = before + b"@" + after
                data = data.replace(b"%d%s" % (len(name), name), b"\x01m%s\x01" % mark)
                if file == "stub.c":
                    data = re.sub(rb"(?<!\w)" + name + rb"(?!\w)", b"\x01p%s\x01" % mark, data)
            if self._list in data or self._spelled.search(data):
                return None
            out[file] = data
        return out if self.put_in(out) == dict(files) else None

    def put_in(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Such results with the names of this list."""

        def name(met: re.Match[bytes]) -> bytes:
            whole = met[2] + self._list + met[3]
            return b"%d%s" % (len(whole), whole) if met[1] == b"m" else whole

        return {file: _MARK.sub(name, data) for file, data in files.items()}


def digest(*parts: bytes | str | Sequence[str]) -> str:
    total = hashlib.sha256(VERSION.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()
