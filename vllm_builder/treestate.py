"""Is the tree in the workspace still the plan's?

A wheel is kept under its plan's digest, so it must come from the plan's tree and not from one that somebody
edited meanwhile. What was placed and patched is listed beside the tree; before a build goes on in it, and again
before its wheel is stored, the tree is held against that list, by size and time and only where those differ by
content.

setup.py writes into its own tree (generated kernels, ``_version.py``). What appears while it runs is its own and
is listed afterwards; a builder that is killed does not come to that, so then the files' times decide.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import translate
from pathlib import Path
from stat import S_ISLNK
from typing import Final, NamedTuple

from vllm_builder.errors import TreeChanged
from vllm_builder.fs import os_errors, sha256_file, walk_files, write_atomic
from vllm_builder.stages.source.paths import LEFT_OUT_ANYWHERE, LEFT_OUT_AT_TOP

_ANYWHERE = re.compile("|".join(map(translate, LEFT_OUT_ANYWHERE)))
_AT_TOP = re.compile("|".join(map(translate, LEFT_OUT_AT_TOP)))
_REWRITTEN: Final = re.compile(
    r"vllm/_version\.py|vllm/vllm_flash_attn/.+|vllm/third_party/(?![^/]+\.src/).+"
)
"""Placed files that releases' setup.py may write again: the version, and copies of what was just installed."""

_SLACK = 60.0
"""Seconds after the last sign of life of a killed build in which it may still have written."""

_NAMED = 20


class _Listed(NamedTuple):
    size: int
    mtime_ns: int
    content: str
    """SHA-256 of a file, ``->target`` of a link."""
    made: bool
    """By setup.py, not by us."""


class Changes(NamedTuple):
    """What differs from the list, as sorted relative paths."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    def lines(self) -> list[str]:
        found = [
            f"{word}: {path}"
            for word, paths in zip(self._fields, self, strict=True)
            for path in paths
        ]  # fmt: skip
        further = len(found) - _NAMED
        return found if further <= 0 else [*found[:_NAMED], f"and {further} more"]


def listing_of(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.files.json")


def marker_of(tree: Path) -> Path:
    """The file that stands beside a tree while setup.py runs in it."""
    return tree.with_name(f"{tree.name}.building")


def record(tree: Path) -> None:
    """List a tree as it was placed and patched."""
    marker_of(tree).unlink(missing_ok=True)
    with os_errors(f"reading {tree}"):
        _write(tree, {path: _listed(tree, path, stat, False) for path, stat in _walk(tree).items()})


def listing(tree: Path) -> dict[str, str]:
    """Every file of a tree that counts for its identity: path -> SHA-256 of its content, ``->target`` of a link."""
    with os_errors(f"reading {tree}"):
        return {path: _listed(tree, path, stat, False).content for path, stat in _walk(tree).items()}


def placed(tree: Path) -> dict[str, str]:
    """As :func:`listing`, of a tree as it was recorded: without what setup.py made since.

    Raises:
        TreeChanged: the list of its files is missing or damaged.
    """
    return {path: entry.content for path, entry in _read(tree).items() if not entry.made}


def set_aside(tree: Path) -> Path:
    """Rename a tree to where it is in nobody's way; returns its new place."""
    number = 1
    while (place := tree.with_name(f"{tree.name}.edited-{number}")).exists():
        number += 1
    with os_errors(f"renaming {tree}"):
        tree.rename(place)
    return place


def check(tree: Path, *, log: Path | None = None) -> None:
    """Hold a tree against its list.

    Args:
        log: what the build printed; tells how long a killed one lived.

    Raises:
        TreeChanged: names what differs.
    """
    listed = _read(tree)
    changes = _differences(tree, listed, _walk(tree))
    if marker_of(tree).exists():
        until = max(_time(marker_of(tree)), _time(log) if log is not None else 0.0) + _SLACK
        changes = _without_builds_own(tree, listed, changes, until)
    if any(changes):
        raise _edited(tree, changes, "since it was made")


@contextmanager
def building(tree: Path) -> Iterator[None]:
    """Around setup.py: what it writes into the tree is listed as its own.

    Raises:
        TreeChanged: at the end, where a file that setup.py does not write was changed meanwhile.
    """
    listed = _read(tree)
    write_atomic(marker_of(tree), "")
    try:
        yield
    except BaseException:
        _adopt(tree, listed)
        raise
    changes = _adopt(tree, listed)
    if any(changes):
        raise _edited(tree, changes, "while it was compiled")


def _adopt(tree: Path, listed: dict[str, _Listed]) -> Changes:
    """List what setup.py wrote; return what it did not."""
    present = _walk(tree)
    found = _differences(tree, listed, present)
    foreign = _without_builds_own(tree, listed, found, float("inf"))
    now = dict(listed)
    for path in {*found.changed, *found.added} - {*foreign.changed, *foreign.added}:
        made = path not in listed or listed[path].made
        now[path] = _listed(tree, path, present[path], made)
    for path in set(found.missing) - set(foreign.missing):
        del now[path]
    if now != listed:
        _write(tree, now)
    marker_of(tree).unlink(missing_ok=True)
    return foreign


def _without_builds_own(tree: Path, listed: dict[str, _Listed], changes: Changes, until: float) -> Changes:
    """Leave out what setup.py may have done up to a time."""

    def own(path: str) -> bool:
        if path in listed and not listed[path].made and not _REWRITTEN.fullmatch(path):
            return False
        try:
            # Unlike the file's own time, this one is never set by a program.
            return (tree / path).lstat().st_ctime <= until
        except FileNotFoundError:
            return path in listed and listed[path].made

    return Changes(*(tuple(p for p in paths if not own(p)) for paths in changes))


def _differences(tree: Path, listed: dict[str, _Listed], present: dict[str, os.stat_result]) -> Changes:
    changed = []
    for path, stat in present.items():
        was = listed.get(path)
        if was is None or (stat.st_size, stat.st_mtime_ns) == (was.size, was.mtime_ns):
            continue
        if _listed(tree, path, stat, was.made).content != was.content:
            changed.append(path)
    return Changes(
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(listed.keys() - present.keys())),
        added=tuple(sorted(present.keys() - listed.keys())),
    )


def _walk(tree: Path) -> dict[str, os.stat_result]:
    """All files and links but for build output and caches: relative path -> lstat."""
    return walk_files(tree, lambda name, top: bool(_ANYWHERE.match(name) or (top and _AT_TOP.match(name))))


def _listed(tree: Path, path: str, stat: os.stat_result, made: bool) -> _Listed:
    full = tree / path
    content = f"->{os.fspath(full.readlink())}" if S_ISLNK(stat.st_mode) else sha256_file(full)
    return _Listed(stat.st_size, stat.st_mtime_ns, content, made)


def _write(tree: Path, listed: dict[str, _Listed]) -> None:
    # Names that are no UTF-8 become lone surrogates, which ASCII JSON can carry.
    write_atomic(listing_of(tree), json.dumps(listed, separators=(",", ":"), sort_keys=True))


def _read(tree: Path) -> dict[str, _Listed]:
    path = listing_of(tree)
    try:
        return {name: _entry(values) for name, values in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise TreeChanged(
            f"Whether {tree} is still the plan's cannot be told.",
            why=f"{path.name}, the list of its files, is missing or damaged.",
            next=_ways_out(tree),
        ) from None


def _entry(values: object) -> _Listed:
    match values:
        case [int(size), int(mtime), str(content), bool(made)]:
            return _Listed(size, mtime, content, made)
    raise TypeError


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _edited(tree: Path, changes: Changes, when: str) -> TreeChanged:
    count = sum(map(len, changes))
    return TreeChanged(
        f"{count} file{'s' if count != 1 else ''} of {tree} changed {when}.",
        why="Its wheel would be stored as that of the plan, which it no longer is. Nothing was stored or lost.",
        next=_ways_out(tree),
        details=changes.lines(),
    )


def _ways_out(tree: Path) -> str:
    return (
        f"To build the tree as it is, as a source of your own: --source {tree}. To build the plan: --force "
        "makes the tree anew and keeps this one beside it."
    )
