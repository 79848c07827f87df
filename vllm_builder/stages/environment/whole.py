"""Is an environment in the cache still as it was installed?

It is shared by all builds with its lock, and what is in it goes into wheels (torch's headers do). So it is listed
when it is made, and held against that list each time that it is taken.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from vllm_builder.fs import os_errors, walk_files, write_atomic

READY = "vllm-builder-ready.json"


class Ready(NamedTuple):
    """What stands in an environment's ready file."""

    packages: Mapping[str, str]
    files: Mapping[str, tuple[int, int]] | None
    """Relative path -> size and time; None in one that an earlier version made."""


def write_ready(root: Path, packages: Mapping[str, str]) -> None:
    """Declare an environment to be whole, as it is now."""
    ready = {"packages": packages, "files": _files(root)}
    write_atomic(root / READY, json.dumps(ready, sort_keys=True, separators=(",", ":")))


def read_ready(root: Path) -> Ready | None:
    """What an environment was when it was made; None where it was never made whole, or the file is damaged."""
    try:
        match json.loads((root / READY).read_text("utf-8")):
            case {"packages": dict(packages), "files": dict(files)}:
                return Ready(packages, {path: (int(size), int(time)) for path, (size, time) in files.items()})
            case {"packages": _, "files": _}:
                return None
            case dict(packages) if all(isinstance(version, str) for version in packages.values()):
                return Ready(packages, None)
    except (OSError, ValueError, TypeError):
        pass
    return None


def damage(root: Path, ready: Ready, *, contents: bool) -> list[str]:
    """What is not as it was installed, one line each; empty for an environment that is whole.

    Args:
        contents: also read every file that a package has a hash of, which takes seconds.
    """
    if not (root / "bin" / "python").exists():
        return ["bin/python does not run"]
    found = []
    if ready.files is None:
        found = _packages_differ(ready.packages, installed(root))
    else:
        now = _files(root)
        found = [f"missing: {_short(path)}" for path in ready.files.keys() - now.keys()]
        found += [f"changed: {_short(p)}" for p, was in ready.files.items() if p in now and now[p] != was]
        if now.keys() - ready.files.keys():
            found += [f"added: {_short(path)}" for path in _tops(now) - _tops(ready.files)]
    if contents and not found:
        with os_errors(f"reading {root}"):
            found = [f"damaged: {path}" for path in other_content(root)]
    return sorted(found)


def installed(root: Path) -> dict[str, str]:
    """The distributions of an environment: canonical name -> version."""
    return {
        d.metadata["Name"].lower().replace("_", "-"): d.version
        for d in distributions(path=[str(p) for p in _sites(root)])
        if d.metadata and d.metadata["Name"]
    }


def _packages_differ(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: {now.get(name, 'missing')} instead of {was.get(name, 'nothing')}"
        for name in was.keys() | now.keys()
        if was.get(name) != now.get(name)
    ]


def _files(root: Path) -> dict[str, tuple[int, int]]:
    """Everything but bytecode, which Python writes as it likes, and the ready file itself."""
    found = walk_files(root, lambda name, top: name == "__pycache__" or (top and name == READY))
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def _tops(files: Mapping[str, object]) -> set[str]:
    """The entries of site-packages: what appears there takes part in imports, what appears deeper does not."""
    found = set()
    for path in files:
        before, site, below = path.partition("/site-packages/")
        if site:
            found.add(f"{before}{site}{below.split('/')[0]}")
    return found


def other_content(root: Path) -> Iterator[str]:
    """Files that are not what the RECORD of their package says."""
    for site in _sites(root):
        for record in site.glob("*.dist-info/RECORD"):
            with record.open(encoding="utf-8", newline="") as file:
                for path, hashed, *_ in csv.reader(file):
                    kind, _, wanted = hashed.partition("=")
                    full = site / path
                    if kind == "sha256" and full.is_file() and _sha256(full) != wanted:
                        yield path


def _sha256(path: Path) -> str:
    """As RECORD files spell it."""
    with path.open("rb") as file:
        raw = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sites(root: Path) -> list[Path]:
    return sorted((root / "lib").glob("python*/site-packages"))


def _short(path: str) -> str:
    return os.fspath(path).rpartition("/site-packages/")[2]
