"""Sources that already lie on this machine: a tree or an archive of one."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatch, translate
from pathlib import Path
from typing import Final

from vllm_builder.cache import Cache
from vllm_builder.errors import ContradictionError, SourceError
from vllm_builder.events import Emit, Note
from vllm_builder.fs import os_errors, sha256_file
from vllm_builder.memo import Memo
from vllm_builder.stages.source.links import link_problem
from vllm_builder.stages.source.model import SourcePin, SourceRequest
from vllm_builder.stages.source.versions import parse_release, version_after

LEFT_OUT_ANYWHERE: Final = (".git", ".hg", "__pycache__", ".*_cache", "*.pyc", "*.pyo")
LEFT_OUT_AT_TOP: Final = ("build", "dist", ".deps", ".venv", "venv", "*.egg-info", "cmake-build-*", ".eggs")
LEFT_OUT_PATHS: Final = ("vllm/*.so", "vllm/vllm_flash_attn/*.so")
"""Build output, caches and version control: neither part of a tree's identity nor copied.

A fixed list, not ``.gitignore``: sources that were put by hand into an ignored folder must stay.
"""
_CHUNK: Final = 1 << 20
_ANYWHERE: Final = re.compile("|".join(map(translate, LEFT_OUT_ANYWHERE)))
_AT_TOP: Final = re.compile("|".join(map(translate, LEFT_OUT_AT_TOP)))


@dataclass(frozen=True, slots=True)
class Member:
    """One file or link of a tree."""

    parts: tuple[str, ...]
    path: Path
    executable: bool
    target: str | None
    """Where a link points to; None for a file."""


def members(root: Path) -> Iterator[Member]:
    """All files and links of a tree that count, in a fixed order.

    Raises:
        SourceError: something that is neither, or a link that leaves the tree.
    """
    found: list[Member] = []
    _collect(root, (), found)
    links = {member.parts for member in found if member.target is not None}
    for member in found:
        if member.target is not None:
            problem = link_problem(member.parts, member.target, links.__contains__)
            if problem:
                raise SourceError(
                    f"{member.path} {problem}.",
                    why="The tree is copied and patched; what lies behind such a link would stay outside.",
                    next="Put the file or folder itself there instead of the link.",
                )
    yield from sorted(found, key=lambda member: member.parts)


def _collect(folder: Path, parts: tuple[str, ...], found: list[Member]) -> None:
    with os_errors(f"reading the source tree {folder}"), os.scandir(folder) as entries:
        for entry in entries:
            here = (*parts, entry.name)
            if _left_out(here):
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                found.append(Member(here, Path(entry.path), False, os.readlink(entry.path)))  # noqa: PTH115
            elif stat.S_ISDIR(mode):
                _collect(Path(entry.path), here, found)
            elif stat.S_ISREG(mode):
                found.append(Member(here, Path(entry.path), bool(mode & stat.S_IXUSR), None))
            else:
                raise SourceError(
                    f"{entry.path} is neither a file nor a folder nor a link.",
                    next="Remove it from the tree.",
                )


def _left_out(parts: tuple[str, ...]) -> bool:
    name = parts[-1]
    if _ANYWHERE.match(name) or (len(parts) == 1 and _AT_TOP.match(name)):
        return True
    return name.endswith(".so") and any(
        fnmatch("/".join(parts), pattern) and pattern.count("/") == len(parts) - 1
        for pattern in LEFT_OUT_PATHS
    )


class TreeHash:
    """The identity of a tree: path, kind, executable bit and content of every member, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, member: Member, content: str) -> None:
        kind = "l" if member.target is not None else "x" if member.executable else "f"
        line = "\0".join((kind, "/".join(member.parts), content)) + "\n"
        self._hash.update(line.encode("utf-8", "surrogateescape"))

    def identity(self) -> str:
        return f"tree:{self._hash.hexdigest()}"


def tree_identity(root: Path) -> str:
    """``tree:<hash>`` of a folder.

    Raises:
        SourceError, NotWritable: something in it cannot be read.
    """
    tree = TreeHash()
    with os_errors(f"reading the source tree {root}"):
        for member in members(root):
            tree.add(member, member.target if member.target is not None else sha256_file(member.path))
    return tree.identity()


def copy_tree(root: Path, dest: Path) -> str:
    """Copy what counts of a tree into an empty folder; return the identity of what was copied.

    Files are copied, never linked: the copy is going to be edited.
    """
    tree = TreeHash()
    with os_errors(f"copying the source tree {root}"):
        made: set[tuple[str, ...]] = set()
        for member in members(root):
            target = dest.joinpath(*member.parts)
            if member.parts[:-1] not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(member.parts[:-1])
            if member.target is not None:
                target.symlink_to(member.target)
                tree.add(member, member.target)
            else:
                tree.add(member, _copy(member.path, target))
    return tree.identity()


def _copy(source: Path, target: Path) -> str:
    """Copy a file with its mode and times; return the SHA-256 of what was written."""
    hasher = hashlib.sha256()
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        while chunk := reader.read(_CHUNK):
            hasher.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[writer.write(rest) :]
        status = os.fstat(reader.fileno())
        os.fchmod(writer.fileno(), stat.S_IMODE(status.st_mode) & 0o777 | stat.S_IWUSR)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return hasher.hexdigest()


# Resolving --------------------------------------------------------------------------------------
def resolve_path(request: SourceRequest, cache: Cache, emit: Emit) -> SourcePin:
    """The pin of a tree or archive, whatever lies there now.

    Raises:
        SourceError, ContradictionError, HostileArchive
    """
    if request.path is None:
        raise SourceError("No path was given for the source.", next="Give --source PATH.")
    path = request.path.expanduser().absolute()
    if request.version.strip() != "latest" and parse_release(request.version) is None:
        raise ContradictionError(
            f"VERSION is {request.version!r}, which is no release, and --source is a path.",
            why="A tree or archive has no branches and commits to choose from; VERSION only says which release it is.",
            next="Name the release that it is, for example v0.9.2, or latest for whatever it says itself.",
        )
    if path.is_dir():
        return _resolve_tree(path, request.version, emit)
    if path.is_file():
        return _resolve_archive(path, request.version, cache, emit)
    raise SourceError(
        f"{path} does not exist.",
        next="Give --source a folder or an archive with vLLM's sources, or auto, git or pypi.",
    )


def _resolve_tree(path: Path, wanted: str, emit: Emit) -> SourcePin:
    check_is_vllm(path, path)
    release, found_in = release_of(path), "its PKG-INFO"
    if release is None:
        release, found_in = _described(path, wanted, emit)
    else:
        _agree(wanted, release, found_in, path)
    if release is None:
        given = parse_release(wanted)
        if given is None:
            raise SourceError(
                f"Nothing in {path} says which release it is.",
                why=f"It has no PKG-INFO and no git history with release tags, and VERSION is {wanted!r}.",
                next="Name the release as VERSION, for example 0.9.2.",
            )
        release, found_in = str(given), "VERSION"
    return SourcePin(
        kind="tree",
        release=release,
        identity=tree_identity(path),
        name=path.name,
        location=str(path),
        reason=f"the folder that was named; its release is from {found_in}",
    )


def _described(path: Path, wanted: str, emit: Emit) -> tuple[str | None, str]:
    """The release that git knows for a work tree, or what the person said instead."""
    if not (path / ".git").exists():
        return None, ""
    from vllm_builder.stages.source.gitrun import GitFailed
    from vllm_builder.stages.source.mirror import describe

    try:
        tag, distance = describe(["-C", str(path)], "HEAD")
        release = version_after(tag, distance)
    except (GitFailed, ValueError):
        return None, ""
    given = parse_release(wanted)
    if given is None or str(given) == release:
        return release, f"git ({tag} and {distance} commits)"
    if distance == 0:
        _agree(wanted, release, f"git tag {tag}", path)
    emit(Note(stage="source", message=f"git calls {path} {release}; it is built as {given}, as you said."))
    return str(given), "VERSION"


def _agree(wanted: str, release: str, where: str, path: Path) -> None:
    given = parse_release(wanted)
    if given is not None and str(given) != release:
        raise ContradictionError(
            f"VERSION says {given}, but {path.name} is {release}.",
            why=f"{path}: {where} names {release}.",
            next=f"Say {release}, or give the source of {given}.",
        )


def _resolve_archive(path: Path, wanted: str, cache: Cache, emit: Emit) -> SourcePin:
    from vllm_builder.stages.source.surveying import survey

    memo = Memo(cache.memo, "archive")
    with os_errors(f"reading {path}"):
        status = path.stat()
        question = [str(path), status.st_size, status.st_mtime_ns, status.st_ino]
        digest = memo.get(question)
        if digest is None:
            digest = sha256_file(path)
            memo.put(question, digest)
    pin = SourcePin(
        kind="sdist",
        release="0",
        identity=f"sha256:{digest}",
        name=path.name,
        location=str(path),
        reason="the archive that was named",
    )
    release = release_of(survey(pin, cache, emit))
    where = "its PKG-INFO"
    if release is not None:
        _agree(wanted, release, where, path)
    else:
        match = re.match(r"vllm-(.+?)\.(tar|tgz|tbz2?|zip)", path.name)
        named = parse_release(match[1]) if match else None
        given = parse_release(wanted)
        if given is None and named is None:
            raise SourceError(
                f"Nothing in {path.name} says which release it is.",
                why=f"It has no PKG-INFO, its name has no version, and VERSION is {wanted!r}.",
                next="Name the release as VERSION, for example 0.9.2.",
            )
        release, where = (str(given), "VERSION") if given else (str(named), "its name")
    return pin.model_copy(
        update={"release": release, "reason": f"the archive that was named; its release is from {where}"}
    )


# What a tree says of itself ----------------------------------------------------------------------
def release_of(folder: Path) -> str | None:
    """The version in a tree's PKG-INFO, without its local part; None where it has none."""
    try:
        headers = HeaderParser().parsestr((folder / "PKG-INFO").read_text("utf-8", "replace"))
    except OSError:
        return None
    version = parse_release(headers.get("Version", ""))
    return str(version) if version else None


def check_is_vllm(folder: Path, shown: Path | str) -> None:
    """Raise SourceError unless the folder (a tree or a survey of one) is vLLM's."""
    name = ""
    if (folder / "PKG-INFO").is_file():
        headers = HeaderParser().parsestr((folder / "PKG-INFO").read_text("utf-8", "replace"))
        name = headers.get("Name", "")
    if not (folder / "setup.py").is_file() or not (
        name == "vllm" or (not name and (folder / "vllm").is_dir())
    ):
        raise SourceError(
            f"{shown} is no source tree of vLLM.",
            why=f"It calls itself {name!r}."
            if name and name != "vllm"
            else "It has no setup.py or no vllm folder.",
            next="Give the top folder of a vLLM tree, or an archive of one.",
        )
