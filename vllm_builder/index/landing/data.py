"""What the landing page knows, as scripts: ``vllmIndex.take({...})``."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_builder.index.model import File, Root, Shard
from vllm_builder.index.storage.base import Storage

FORMAT: Final = 1
"""Of the data; a page that finds another one says so."""
_PYTHONS: Final = tuple(f"3.{minor}" for minor in range(9, 16))
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_INTERPRETER: Final = re.compile(r"(?:cp|py)3(\d*)")
_PLATFORM: Final = re.compile(r"(many|musl)?linux(?:_\d+_\d+|\d+)?_(\w+)")
_OTHER_PLATFORM: Final = re.compile(r"(win|macosx)(?:_\d+_\d+)?_(\w+)")
_PATCHES: Final = 40
"""Patch releases of one Python that Requires-Python is held against; 3.9 had 25."""


@cache
def gpus() -> list[dict[str, Any]]:
    """``gpus.toml``: capability, family, names."""
    table = tomllib.loads((Path(__file__).with_name("gpus.toml")).read_text("utf-8"))
    return [{key: one[key] for key in ("capability", "family", "names")} for one in table["gpus"]]


def index(root: Root, pages: str = "") -> bytes:
    """``landing/index.js``.

    Args:
        pages: below which folder the pages for installers are: where nobody negotiates, those in JSON have all facts.
    """
    shards = [[ref.project, ref.variant, ref.files, ref.revision] for ref in root.shards]
    return script(
        root.revision, kind="index", updated=_minutes(root.updated.timestamp()), shards=shards, pages=pages
    )


def summary(shard: Shard, revision: int) -> bytes:
    """``landing/PROJECT/VARIANT/index.js``: tables, and rows that point into them.

    A row is: version, minutes since the epoch, its channels, its architectures, its (Pythons, machines), 1 where it is
    yanked, and a channel of its own where nobody gave it one.
    """
    channels, archs, tags = _Table(), _Table(), _Table()
    rows = []
    for file in shard.files:
        named = named_channels(file)
        row: list[Any] = [
            file.version,
            _minutes(file.uploaded.timestamp()),
            channels.place(named),
            archs.place(file.facts.archs),
            tags.place(_where(file)),
            1 if file.yanked else 0,
        ]
        if not named:
            row.append(min(file.channels, key=lambda one: _COMMIT.fullmatch(one) is not None, default=""))
        rows.append(row)
    return script(
        revision,
        kind="variant",
        project=shard.project,
        variant=shard.variant,
        device=device_of(shard),
        channels=channels.rows,
        archs=archs.rows,
        tags=tags.rows,
        rows=rows,
    )


def details(
    storage: Storage, revision: int, project: str, variant: str, version: str, files: Sequence[File]
) -> bytes:
    """``landing/PROJECT/VARIANT/VERSION.js``: all that a person may want to know of these wheels."""
    return script(
        revision,
        kind="version",
        project=project,
        variant=variant,
        version=version,
        files=[_detail(storage, file) for file in files],
    )


def named_channels(file: File) -> tuple[str, ...]:
    """Without those that every version and every commit has for itself."""
    public = file.version.partition("+")[0].replace("!", "-")
    return tuple(channel for channel in file.channels if channel != public and not _COMMIT.fullmatch(channel))


def device_of(shard: Shard) -> str:
    """``cuda``, ``cpu``, ``any``, or what the variant is called."""
    for file in shard.files:
        if file.facts.device:
            return file.facts.device
    return "cuda" if re.fullmatch(r"cu\d+", shard.variant) else shard.variant


def script(revision: int, **content: Any) -> bytes:
    """A call with JSON, in ASCII alone: it means the same whatever a server says of its encoding."""
    text = json.dumps({"_revision": revision, "format": FORMAT, **content}, separators=(",", ":"))
    return f"vllmIndex.take({text.replace('<', chr(92) + 'u003c')});\n".encode("ascii")


@lru_cache(maxsize=4096)
def pythons_and_machines(tags: str, requires_python: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Minor versions of Python, and machines, that a wheel is for; no machine: every one.

    Args:
        tags: ``cp38-abi3-manylinux_2_28_x86_64``.
    """
    pythons, abis, platforms = (part.split(".") for part in tags.split("-"))
    found = []
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        allowed = SpecifierSet()  # pip passes over a value that it cannot read, too
    for python in _PYTHONS:
        minor = int(python.partition(".")[2])
        if any(_takes(tag, abis, minor) for tag in pythons) and any(
            allowed.contains(f"{python}.{patch}") for patch in range(_PATCHES)
        ):
            found.append(python)
    machines = set()
    for platform in platforms:
        if match := _PLATFORM.fullmatch(platform):
            machines.add(match[2] + (" (musl)" if match[1] == "musl" else ""))
        elif match := _OTHER_PLATFORM.fullmatch(platform):
            machines.add(("Windows " if match[1] == "win" else "macOS ") + match[2])
        elif platform != "any":
            machines.add(platform)
    return tuple(found), tuple(sorted(machines))


def _takes(tag: str, abis: Sequence[str], minor: int) -> bool:
    """Whether a Python of that minor version takes a wheel of that tag: any later one where the interface is stable."""
    match = _INTERPRETER.fullmatch(tag)
    if match is None:
        return False
    own = int(match[1] or 0)
    if tag.startswith("py") or "abi3" in abis:
        return own <= minor
    return own == minor


def _where(file: File) -> tuple[tuple[str, ...], tuple[str, ...]]:
    tags = file.filename.removesuffix(".whl").rsplit("-", 3)[1:]
    return pythons_and_machines("-".join(tags), file.requires_python)


def _detail(storage: Storage, file: File) -> dict[str, Any]:
    pythons, machines = _where(file)
    facts = file.facts
    found: dict[str, Any] = {
        "filename": file.filename,
        "version": file.version,
        "key": file.key,
        "sha256": file.sha256,
        "size": file.size,
        "uploaded": _minutes(file.uploaded.timestamp()),
        "requires_python": file.requires_python,
        "pythons": pythons,
        "machines": machines,
        "channels": file.channels,
        "archs": facts.archs,
        "cuda": facts.cuda,
        "torch": facts.torch,
        "commit": facts.commit,
        "digest": facts.digest,
        "summary": facts.summary,
        "checked": file.checked.model_dump(mode="json"),
        "yanked": file.yanked.reason if file.yanked else None,
        "provenance": "none",
    }
    if file.provenance_sha256:
        found["provenance"] = "signed" if _signed(storage, file.provenance_key) else "unsigned"
    return found


def _signed(storage: Storage, key: str) -> bool:
    """Whether it is an envelope with a signature. Whose it is, and whether it holds, only a check with the key can tell."""
    blob = storage.read(key)
    if blob is None:
        return False
    try:
        envelopes = [json.loads(line) for line in blob.data.splitlines() if line.strip()]
    except ValueError:
        return False
    return bool(envelopes) and all(isinstance(one, dict) and one.get("signatures") for one in envelopes)


def sortable(version: str) -> Version:
    """Sorts what cannot be a version before everything."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0.dev0")


def _minutes(seconds: float) -> int:
    return int(seconds // 60)


class _Table:
    """Equal values once, in the order in which they came."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        if value not in self._places:
            self._places[value] = len(self.rows)
            self.rows.append(value)
        return self._places[value]
