"""Put locked externals into a tree, each whole or not at all, and hold them against their hashes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, HashMismatch, OfflineMissing, VendorError
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.fs import os_errors, remove_tree
from vllm_builder.stages.patch.operations import RepointFetchcontent, Step
from vllm_builder.stages.source.placing import partial_folder
from vllm_builder.stages.vendor.mirrors import (
    ExternalMirror,
    given_source,
    how_to_supply,
    is_files,
    trying,
)
from vllm_builder.stages.vendor.model import (
    ExternalSource,
    Lock,
    LockedExternal,
    LockedSubmodule,
    Sources,
)
from vllm_builder.stages.vendor.treehash import folder_hash, inside, wanted

_Locked = LockedExternal | LockedSubmodule


def patch_steps(lock: Lock) -> tuple[Step, ...]:
    """The patch operations after which CMake takes the externals from the tree."""
    return tuple(
        Step(
            set="externals",
            number=number,
            operation=RepointFetchcontent(
                action="repoint_fetchcontent",
                name=one.name,
                revision=one.written,
                source_dir=f"${{CMAKE_SOURCE_DIR}}/{one.folder}",
            ),
        )
        for number, one in enumerate(lock.externals, 1)
    )


def fetch_externals(
    lock: Lock,
    sources: Sources,
    tree: Path,
    cache: Cache,
    emit: Emit = ignore,
    *,
    offline: bool = False,
) -> None:
    """Put all externals of a lock under the tree's ``vllm/third_party``.

    One that is there already is held against its hash and kept. No ``.git`` is left behind.

    Args:
        offline: fail, naming everything that is missing, rather than touch the network.

    Raises:
        HashMismatch: what was fetched, given or found in the tree is not what the lock names.
        OfflineMissing, VendorError, SourceError, HostileArchive, NoSpace, NotWritable
    """
    started = time.monotonic()
    tree = tree.absolute()  # git changes folders
    emit(StageStarted(stage="vendor", title="External sources"))
    todo = []
    for one in lock.externals:
        if (tree / one.folder).is_dir() and any((tree / one.folder).iterdir()):
            verify(one, tree / one.folder, (one.name,))
        else:
            todo.append(one)
    placer = _Placer(sources, cache, emit, offline)
    if offline:
        missing = [line for one in todo for line in placer.missing(one, (one.name,))]
        if missing:
            raise OfflineMissing(
                "External sources are not in the cache, and --offline forbids to fetch them.",
                why=f"{len(missing)} of them are missing.",
                next="Run the same command once with network, or supply them: [externals.NAME] with git, "
                "path or archive in vllm-builder.toml.",
                details=missing,
            )
    for one in todo:
        dest = tree / one.folder
        with partial_folder(dest) as partial, os_errors(f"writing {dest}"):
            placer.place(one, partial, (one.name,), partial.parent)
            verify(one, partial, (one.name,))
            if dest.is_dir():
                dest.rmdir()
            partial.replace(dest)
        emit(Note(stage="vendor", message=f"{one.name} {one.revision} is in {one.folder}."))
    summary = f"{len(lock.externals)} in the tree, {len(todo)} new"
    emit(StageFinished(stage="vendor", seconds=time.monotonic() - started, summary=summary))


def verify(one: _Locked, folder: Path, trail: tuple[str, ...]) -> None:
    """Compare a folder, and the submodules in it, with what the lock names.

    Raises:
        HashMismatch
    """
    links = {part.path: part.commit for part in one.submodules} | one.left_out
    found = folder_hash(folder, links, one.without)
    if found != one.tree:
        raise HashMismatch(
            f"{'/'.join(trail)} is not what the lock names.",
            why=f"Its files have the tree hash {found}; commit {one.commit[:12]} has {one.tree}.",
            next="Give the exact revision, or remove its folder and let it be fetched again; if the release "
            "itself was changed on purpose, write a new lock with --lock.",
        )
    for part in one.submodules:
        verify(part, folder / part.path, (*trail, part.path))


class _Placer:
    def __init__(self, sources: Sources, cache: Cache, emit: Emit, offline: bool) -> None:
        self.sources, self.cache, self.emit, self.offline = sources, cache, emit, offline

    def place(self, one: _Locked, folder: Path, trail: tuple[str, ...], scratch: Path) -> None:
        """Fill an empty folder."""
        source = given_source(self.sources, trail, one.url)
        files = source if source is not None and is_files(source) else None
        if files is None:
            self.checkout(one, source, folder, trail, scratch)
        else:
            self.copy(files, folder, trail, one.without)
        _drop(one, folder)
        for part in one.submodules:
            target, inner = folder / part.path, (*trail, part.path)
            if target.is_dir() and any(target.iterdir()):
                self.below(part, target, inner, scratch, files)
                continue
            self.allowed(part, inner, files)
            place = Path(tempfile.mkdtemp(prefix="submodule-", dir=scratch)) / "tree"
            place.mkdir()
            self.place(part, place, inner, scratch)
            if target.is_dir():
                target.rmdir()
            target.parent.mkdir(parents=True, exist_ok=True)
            place.replace(target)

    def below(
        self,
        one: LockedSubmodule,
        folder: Path,
        trail: tuple[str, ...],
        scratch: Path,
        files: ExternalSource | None,
    ) -> None:
        """A submodule came with its parent's folder or archive: see to the ones in it."""
        _drop(one, folder)
        for part in one.submodules:
            target, inner = folder / part.path, (*trail, part.path)
            if target.is_dir() and any(target.iterdir()):
                self.below(part, target, inner, scratch, files)
                continue
            self.allowed(part, inner, files)
            target.mkdir(parents=True, exist_ok=True)
            self.place(part, target, inner, scratch)

    def allowed(self, one: LockedSubmodule, trail: tuple[str, ...], files: ExternalSource | None) -> None:
        """Whoever gives files by hand does so for want of a network: do not reach for it behind their back."""
        if files is None or given_source(self.sources, trail, one.url) is not None:
            return
        if ExternalMirror(one.url, None, self.cache, self.emit).has(one.commit, one.without):
            return
        raise VendorError(
            f"{files.archive or files.path} has nothing of the submodule {trail[-1]}.",
            why=f"Archives that hosting sites make leave submodules empty; {'/'.join(trail)} is "
            f"{one.url} at {one.commit}.",
            next=how_to_supply(trail),
        )

    def checkout(
        self,
        one: _Locked,
        source: ExternalSource | None,
        folder: Path,
        trail: tuple[str, ...],
        scratch: Path,
    ) -> None:
        mirror = ExternalMirror(one.url, source, self.cache, self.emit)
        ref = one.revision if isinstance(one, LockedExternal) and one.revision != one.commit else ""
        trying(lambda: mirror.fetch(one.commit, ref, one.without), mirror, trail, self.emit)
        place = Path(tempfile.mkdtemp(prefix="checkout-", dir=scratch)) / "tree"
        place.mkdir()
        trying(
            lambda: mirror.checkout(one.commit, place, lambda path: wanted(path, one.without)),
            mirror,
            trail,
            self.emit,
        )
        folder.rmdir()
        place.replace(folder)

    def copy(
        self, source: ExternalSource, folder: Path, trail: tuple[str, ...], without: Sequence[str]
    ) -> None:
        given = source.archive or source.path
        assert given is not None
        given = given.expanduser()
        if not given.exists():
            raise VendorError(
                f"{given}, which is to give {'/'.join(trail)}, does not exist.", next=how_to_supply(trail)
            )
        folder.rmdir()
        try:
            if given.is_dir():
                shutil.copytree(given, folder, symlinks=True, ignore=_unwanted(given, without))
            else:
                from vllm_builder.stages.source.extraction import extract

                extract(given, folder, select=lambda path: wanted(path, without))
        except BuilderError as error:
            error.details = (*error.details, f"for the external source {'/'.join(trail)}")
            raise

    def missing(self, one: _Locked, trail: tuple[str, ...]) -> list[str]:
        """What could not be had without a network."""
        source = given_source(self.sources, trail, one.url)
        found = []
        if source is None or not is_files(source):
            mirror = ExternalMirror(one.url, source, self.cache, self.emit)
            if not mirror.local and not mirror.has(one.commit, one.without):
                found.append(f"{'/'.join(trail)}: {one.url} at {one.commit}")
            for part in one.submodules:
                found.extend(self.missing(part, (*trail, part.path)))
        return found


def _drop(one: _Locked, folder: Path) -> None:
    """Remove what does not count. A folder by hand may hold links: nothing is removed through them."""
    for path in (*one.left_out, *one.without):
        if any((folder / parent).is_symlink() for parent in Path(path).parents if parent.name):
            continue
        if (folder / path).is_symlink():
            (folder / path).unlink()
        else:
            remove_tree(folder / path)


def _unwanted(root: Path, without: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
    def ignored(folder: str, names: list[str]) -> list[str]:
        found = []
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            keep = not inside(relative, without) if path.is_dir() else wanted(relative, without)
            if name == ".git" or not keep:
                found.append(name)
        return found

    return ignored
