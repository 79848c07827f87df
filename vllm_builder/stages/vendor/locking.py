"""Lock files: which commit and which files each external of a release is."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from vllm_builder.cache import Cache
from vllm_builder.errors import HashMismatch, VendorError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import write_atomic
from vllm_builder.indexes import redact
from vllm_builder.stages.patch.cmake import CMakeFile
from vllm_builder.stages.vendor.mirrors import (
    ExternalMirror,
    given_source,
    is_files,
    repository_key,
    submodule_url,
    trying,
)
from vllm_builder.stages.vendor.model import (
    External,
    Lock,
    LockedExternal,
    LockedSubmodule,
    Sources,
    Unlocked,
)
from vllm_builder.stages.vendor.treehash import inside
from vllm_builder.stages.vendor.unneeded import unneeded

FOLDER: Final = "vllm/third_party/{name}.src"
"""Where an external lies in the tree. A folder with a dot in its name is no Python package to any of
setuptools' finders, so nothing of it gets into the wheel; and it cannot collide with the packages of the same
name that some releases have there, or install there (flashmla, triton_kernels, deep_gemm)."""
_DEPTH: Final = 8


def lock(
    externals: Iterable[External],
    sources: Sources,
    cache: Cache,
    *,
    release: str,
    cmake: Mapping[str, bytes] = {},  # never changed
    emit: Emit = ignore,
    keep_going: bool = False,
) -> Lock:
    """Find out what the externals that are needed (or may be) exactly are.

    Submodules are locked with theirs. Of a repository whose declaration does not name its submodules, those are
    taken whose path occurs in CMake code of the repository or the release; the others are written down as left
    out. ``submodules`` of a source overrules both.

    Args:
        cmake: the release's CMake files, see :func:`cmake_files`.
        keep_going: one that cannot be had is told of and written down as such, and the others are locked.

    Raises:
        VendorError: a repository cannot be reached, or does not have the revision.
    """
    wanted = [external for external in externals if external.needed != "no"]
    names = [external.name.casefold() for external in wanted]
    mentions = _mentions(cmake)
    found: list[LockedExternal] = []
    unlocked: list[Unlocked] = []
    for external in wanted:
        alone = names.count(external.name.casefold()) == 1
        try:
            found.append(_lock_one(external, sources, cache, emit, mentions, alone=alone))
        except VendorError as error:
            if not keep_going:
                raise
            emit(Note(stage="vendor", message=f"{error.what} {error.why}", level="warning"))
            unlocked.append(
                Unlocked(name=external.name, url=redact(external.url), revision=external.revision)
            )
    return Lock(release=release, externals=tuple(found), unlocked=tuple(unlocked))


def _lock_one(
    external: External, sources: Sources, cache: Cache, emit: Emit, mentions: Collection[str], *, alone: bool
) -> LockedExternal:
    trail = (external.name,)
    if not external.url or not external.revision:
        raise VendorError(
            f"What {external.name} is cannot be told from {external.file}:{external.line}.",
            why="Its repository or revision is not fixed there, or it is fetched by other means than git.",
            next="Build that release with network.",
        )
    mirror = _git_mirror(external.url, trail, sources, cache, emit)
    without = unneeded(external.url, mentions)
    commit, ref = trying(partial(mirror.resolve, external.revision), mirror, trail, emit)
    trying(partial(mirror.fetch, commit, ref, without), mirror, trail, emit)
    asked = given(sources, external.name)
    chosen = asked if asked is not None else external.submodules
    submodules, left_out = _submodules(
        mirror, commit, trail, sources, cache, emit, chosen=chosen, mentions=mentions, without=without
    )
    name = external.name if alone else f"{external.name}-{commit[:8]}"
    return LockedExternal(
        name=external.name,
        url=redact(external.url),
        revision=external.revision,
        written=external.written,
        folder=FOLDER.format(name=name),
        commit=commit,
        tree=mirror.tree_of(commit, without),
        without=without,
        submodules=submodules,
        left_out=left_out,
    )


def given(sources: Sources, name: str) -> tuple[str, ...] | None:
    """The submodules that the person named for an external."""
    return next(
        (source.submodules for key, source in sources.items() if key.casefold() == name.casefold()), None
    )


def _git_mirror(
    url: str, trail: tuple[str, ...], sources: Sources, cache: Cache, emit: Emit
) -> ExternalMirror:
    source = given_source(sources, trail, url)
    if source is not None and is_files(source):
        source = None  # what lies in a folder or an archive does not say which commit it is
    return ExternalMirror(url, source, cache, emit)


def _submodules(
    mirror: ExternalMirror,
    commit: str,
    trail: tuple[str, ...],
    sources: Sources,
    cache: Cache,
    emit: Emit,
    *,
    chosen: tuple[str, ...] | None,
    mentions: Collection[str],
    without: tuple[str, ...],
) -> tuple[tuple[LockedSubmodule, ...], dict[str, str]]:
    files = [file for file in mirror.files(commit) if not inside(file[2], without)]
    links = {path: blob for mode, blob, path in files if mode == "160000"}
    if not links:
        return (), {}
    urls = mirror.gitmodules(commit)
    code = {
        path: mirror.text(commit, path)
        for mode, _, path in files
        if mode.startswith("100") and path.rpartition("/")[2].endswith((".cmake", "CMakeLists.txt"))
    }
    texts = {*mentions, *_mentions(code)}
    if chosen is None:
        chosen = tuple(path for path in links if any(path in text for text in texts))
    unknown = set(chosen) - set(links)
    if unknown:
        raise VendorError(
            f"{'/'.join(trail)} has no submodule {sorted(unknown)[0]}.",
            why=f"At {commit[:12]} it has {', '.join(sorted(links))}.",
            next="Correct submodules = [...] of its source.",
        )
    found: list[LockedSubmodule] = []
    for path in sorted(chosen):
        inner = (*trail, path)
        if path not in urls:
            raise VendorError(
                f"The submodule {'/'.join(inner)} has no URL.",
                why=f".gitmodules of {redact(mirror.declared)} at {commit[:12]} does not name it.",
                next="Choose the submodules with submodules = [...] of its source.",
            )
        if len(inner) > _DEPTH:
            raise VendorError(f"The submodules of {trail[0]} are nested too deeply ({'/'.join(inner)}).")
        url = submodule_url(mirror.declared, urls[path])
        other = _git_mirror(url, inner, sources, cache, emit)
        less = unneeded(url, texts)
        trying(partial(other.fetch, links[path], "", less), other, inner, emit)
        below, left_out = _submodules(
            other, links[path], inner, sources, cache, emit, chosen=None, mentions=(), without=less
        )
        found.append(
            LockedSubmodule(
                path=path,
                url=redact(url),
                commit=links[path],
                tree=other.tree_of(links[path], less),
                without=less,
                submodules=below,
                left_out=left_out,
            )
        )
    left = {path: links[path] for path in sorted(set(links) - set(chosen))}
    for path in left:
        emit(
            Note(
                stage="vendor",
                message=f"{'/'.join(trail)}: the submodule {path} is used by nothing; left out.",
            )
        )
    return tuple(found), left


def _mentions(code: Mapping[str, bytes]) -> set[str]:
    """All arguments with a slash in CMake code."""
    return {
        value
        for path, data in code.items()
        for command in CMakeFile(data, path).commands()
        for value in command.values
        if "/" in value or command.name == "add_subdirectory"
    }


# -- files ------------------------------------------------------------------------------------------
def read_lock(path: Path, release: str = "") -> Lock:
    """Read a lock file.

    Args:
        release: the one that it must be for.

    Raises:
        VendorError: it does not exist, is not one, or is another release's.
    """
    try:
        lock = Lock.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise VendorError(
            f"There is no lock file {path}.", next="Write it with vllm-builder vendor VERSION --lock."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise VendorError(
            f"The lock file {path} cannot be used.", why=why, next="Write it anew with --lock."
        ) from error
    if release and lock.release != release:
        raise VendorError(
            f"{path} is for {lock.release}, not for {release}.",
            why="Releases name different revisions of the same external sources.",
            next="Give another --lock-file, or none.",
        )
    return lock


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock file.

    Raises:
        NotWritable, NoSpace
    """
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("What the external sources of this release are, by content."))
    document.add(tomlkit.comment("Written by: vllm-builder vendor VERSION --lock"))
    for key, value in _plain(lock.model_dump(mode="json")).items():
        document.add(key, value)
    write_atomic(path, tomlkit.dumps(document))


def _plain(value: Any) -> Any:
    """Without empty tables and lists, which only make a file longer."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in ((), [], {}, None)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def key(one: External | LockedExternal | Unlocked) -> tuple[str, str]:
    """What makes an external of a release the same one."""
    return one.name.casefold(), one.revision


def for_build(lock: Lock, externals: Iterable[External]) -> Lock:
    """A lock without what this build does not need, which may be another device's."""
    needed = {key(external) for external in externals if external.needed != "no"}
    return lock.model_copy(
        update={"externals": tuple(one for one in lock.externals if key(one) in needed), "unlocked": ()}
    )


def joined(before: Lock, added: Lock) -> Lock:
    """What both have; one that was had now is no longer missing."""
    taken = {one.folder for one in before.externals}
    renamed = (
        one.model_copy(update={"folder": FOLDER.format(name=f"{one.name}-{one.commit[:8]}")})
        if one.folder in taken
        else one
        for one in added.externals
    )
    externals = (*before.externals, *renamed)
    have = {key(one) for one in externals}
    absent = {key(one): one for one in (*before.unlocked, *added.unlocked) if key(one) not in have}
    return Lock(release=before.release, externals=externals, unlocked=tuple(absent.values()))


# -- checking ---------------------------------------------------------------------------------------
def check(lock: Lock, externals: Iterable[External], tree: Path | None = None) -> tuple[str, ...]:
    """What does not agree between a lock, a release and, where given, its tree; empty: everything does.

    Args:
        tree: one into which the externals were put.
    """
    from vllm_builder.stages.vendor.placing import verify

    problems: list[str] = []
    externals = tuple(externals)
    locked = {key(one): one for one in lock.externals}
    absent = {key(one) for one in lock.unlocked}
    declared = {key(external) for external in externals}
    needed = {key(external) for external in externals if external.needed != "no"}
    for external in externals:
        if key(external) not in needed:
            continue
        one = locked.get(key(external))
        if one is None:
            others = [other.revision for other in lock.externals if key(other)[0] == key(external)[0]]
            has = f"the lock has it at {', '.join(others)}" if others else "the lock does not have it"
            if key(external) in absent:
                has = "it could not be had when the lock was written"
            problems.append(f"{external.name} at {external.revision} is needed; {has}")
        elif repository_key(one.url) != repository_key(external.url):
            problems.append(f"{external.name} comes from {external.url}; the lock has it from {one.url}")
    problems.extend(
        f"{one.name} at {one.revision} is in the lock, and the release does not fetch it"
        for one in lock.externals
        if key(one) not in declared
    )
    for one in for_build(lock, externals).externals if tree is not None else ():
        assert tree is not None
        folder = tree / one.folder
        if not folder.is_dir():
            problems.append(f"{one.name} is not in the tree ({one.folder})")
            continue
        try:
            verify(one, folder, (one.name,))
        except HashMismatch as error:
            problems.append(f"{error.what} {error.why}")
    return tuple(problems)
