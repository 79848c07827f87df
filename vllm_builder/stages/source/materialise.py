"""From a pin to files on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_builder.cache import Cache
from vllm_builder.errors import HashMismatch, OfflineMissing, SourceError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import os_errors, sha256_file
from vllm_builder.indexes import Indexes
from vllm_builder.stages.source.model import SourcePin, SourceRequest
from vllm_builder.stages.source.placing import partial_folder

if TYPE_CHECKING:
    from vllm_builder.stages.source.mirror import Mirror


def fetch(
    pin: SourcePin,
    dest: Path,
    cache: Cache,
    emit: Emit = ignore,
    *,
    offline: bool = False,
    request: SourceRequest | None = None,
) -> None:
    """Write the whole tree of a source into the new folder ``dest``.

    ``dest`` appears whole or not at all. There is no ``.git`` in it. Files of an sdist have the archive's
    times, files of a commit the commit's time, so that a second tree of the same source looks the same to
    tools that go by times.

    Args:
        offline: fail rather than fetch what is not in the cache.
        request: where the pin came from; carries credentials for fetching again what a pruned cache lost.

    Raises:
        SourceError: also where ``dest`` exists, or the folder that was pinned has changed since.
        HashMismatch, HostileArchive, OfflineMissing, NoSpace, NotWritable
    """
    materialise(pin, dest, cache, emit, offline=offline, request=request)


def materialise(
    pin: SourcePin,
    dest: Path,
    cache: Cache,
    emit: Emit,
    *,
    offline: bool = False,
    request: SourceRequest | None = None,
    select: Callable[[str], bool] | None = None,
    check: Callable[[Path], None] | None = None,
    shared: bool = False,
) -> None:
    """As :func:`fetch`, for all files or some.

    Args:
        select: relative paths that are wanted; None: all.
        check: called with the tree before it appears at ``dest``; may raise.
        shared: another process may make the same folder meanwhile; whichever is first wins.
    """
    with partial_folder(dest, shared=shared) as partial, os_errors(f"writing the source tree {dest}"):
        if pin.kind == "git":
            _from_git(pin, partial, cache, emit, offline, request, select)
        elif pin.kind == "tree":
            _from_tree(pin, partial, select)
        else:
            from vllm_builder.stages.source.extraction import extract

            archive = obtain_archive(pin, cache, emit, offline=offline, request=request)
            partial.rmdir()
            extract(archive, partial, select=select)
        if check:
            check(partial)
        try:
            partial.replace(dest)
        except OSError:
            if not (shared and dest.is_dir()):
                raise


def obtain_archive(
    pin: SourcePin, cache: Cache, emit: Emit, *, offline: bool, request: SourceRequest | None = None
) -> Path:
    """The intact archive of a pin: from where it was found on this machine, from the cache, or fetched again.

    Raises:
        HashMismatch, OfflineMissing, SourceError
    """
    digest = pin.identity.removeprefix("sha256:")
    if "://" not in pin.location:
        path = Path(pin.location)
        if not path.is_file():
            raise SourceError(f"{path} is gone.", next="Put it back, or give another --source.")
        if sha256_file(path) != digest:
            raise HashMismatch(
                f"{path.name} has changed since it was looked at.",
                why=f"{path} no longer has the sha256 {digest}.",
                next="Run the command again to plan with what lies there now.",
            )
        return path
    cached = cache.downloads / "sha256" / digest / pin.name
    if cached.is_file():
        if sha256_file(cached) == digest:
            return cached
        emit(Note(stage="source", message=f"{cached} is damaged and is fetched again.", level="warning"))
    if offline and not pin.location.startswith("file:"):
        raise OfflineMissing(
            "The source is not in the cache, and --offline forbids to fetch it.",
            why=f"The cache has no intact {pin.name}.",
            next="Run the same command once with network.",
            details=[f"{pin.name} (sha256 {digest}) from {pin.location}"],
        )
    from vllm_builder.stages.source.download import download
    from vllm_builder.stages.source.http import Http

    with Http(request.indexes if request else Indexes()) as http:
        return download(pin.location, pin.name, cache, emit, http, sha256=digest)[0]


def _from_git(
    pin: SourcePin,
    partial: Path,
    cache: Cache,
    emit: Emit,
    offline: bool,
    request: SourceRequest | None,
    select: Callable[[str], bool] | None,
) -> None:
    from vllm_builder.stages.source.gitrun import GitFailed

    commit = pin.identity.removeprefix("git:")
    mirror = obtain_commit(pin, cache, emit, offline=offline, request=request)
    try:
        mirror.checkout(commit, partial, select)
    except GitFailed as error:
        raise _git_failed(pin, error) from error


def obtain_commit(
    pin: SourcePin, cache: Cache, emit: Emit, *, offline: bool, request: SourceRequest | None = None
) -> Mirror:
    """The mirror that has the commit of a pin, fetched where it had not.

    Raises:
        OfflineMissing, SourceError
    """
    from vllm_builder.stages.source.gitrun import GitFailed
    from vllm_builder.stages.source.mirror import Mirror, is_local

    commit = pin.identity.removeprefix("git:")
    mirror = Mirror(request.git_url if request else pin.location, cache, emit)
    if offline and not mirror.has(commit) and not is_local(mirror.url):
        raise OfflineMissing(
            "The source is not in the cache, and --offline forbids to fetch it.",
            why=f"The mirror of {pin.location} does not have the commit {commit[:12]}.",
            next="Run the same command once with network.",
            details=[f"commit {commit} ({pin.name}) from {pin.location}"],
        )
    try:
        mirror.fetch(commit, pin.name)
    except GitFailed as error:
        raise _git_failed(pin, error) from error
    return mirror


def _git_failed(pin: SourcePin, error: Exception) -> SourceError:
    return SourceError(
        f"{pin.name} could not be fetched with git.",
        why=f"{pin.location}: {error}.",
        next="Run the command again; or take the sdist with --source pypi, or a mirror with --git-url.",
    )


def _from_tree(pin: SourcePin, partial: Path, select: Callable[[str], bool] | None) -> None:
    import shutil

    from vllm_builder.stages.source.paths import copy_tree, members

    root = Path(pin.location)
    if not root.is_dir():
        raise SourceError(f"{root} is gone.", next="Put it back, or give another --source.")
    if select is None:
        if copy_tree(root, partial) != pin.identity:
            raise SourceError(
                f"{root} has changed since it was looked at.",
                why="A plan describes one exact content, and the folder has another now.",
                next="Run the command again to plan with what lies there now.",
            )
        return
    for member in members(root):
        if select("/".join(member.parts)):
            target = partial.joinpath(*member.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.target is not None:
                target.symlink_to(member.target)
            else:
                shutil.copy2(member.path, target)
