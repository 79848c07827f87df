"""The sources of a plan as files: the release, and what CMake would fetch."""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vllm_builder.bundling.model import Pack, Supply
from vllm_builder.bundling.packs import make_repository, write_pack
from vllm_builder.cache import Cache
from vllm_builder.errors import BundleError, OfflineMissing
from vllm_builder.events import Emit
from vllm_builder.fs import make_dir, os_errors
from vllm_builder.stages.source.model import SourcePin, SourceRequest
from vllm_builder.stages.vendor.mirrors import ExternalMirror, given_source, is_files, trying
from vllm_builder.stages.vendor.model import (
    ExternalSource,
    Lock,
    LockedExternal,
    LockedSubmodule,
    Sources,
)

_WHEN: Final = 315619200
"""2 January 1980: zip files, and so wheels, know no earlier day in any time zone."""
_REPOSITORIES: Final = "repositories"

Files = dict[str, Path]
"""Path in the bundle -> where the file is now."""


@dataclass(slots=True)
class Collected:
    """What belongs into the bundle so far; ``scratch`` holds what had to be made for it."""

    scratch: Path
    cache: Cache
    emit: Emit
    offline: bool
    files: Files = field(default_factory=dict)
    packs: list[Pack] = field(default_factory=list)
    supplies: dict[str, Supply] = field(default_factory=dict)

    def add(self, path: str, file: Path) -> str:
        self.files[path] = file
        return path

    # -- the release --------------------------------------------------------------------------
    def add_source(self, pin: SourcePin, request: SourceRequest) -> str:
        """The release as an archive or a pack.

        Raises:
            SourceError, HashMismatch, OfflineMissing
        """
        from vllm_builder.stages.source.materialise import fetch, obtain_archive, obtain_commit

        if pin.kind == "git":
            mirror = obtain_commit(pin, self.cache, self.emit, offline=self.offline, request=request)
            return self._pack("git/source.pack", mirror.content, [pin.identity.removeprefix("git:")])
        if pin.kind == "sdist":
            archive = obtain_archive(pin, self.cache, self.emit, offline=self.offline, request=request)
            plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", pin.name)
            return self.add(f"source/{pin.name if plain else 'source.archive'}", archive)
        tree = self.scratch / "source-tree"
        fetch(pin, tree, self.cache, self.emit)
        return self.add("source/tree.tar.gz", tar_folder(tree, self.scratch / "tree.tar.gz"))

    # -- the external sources -----------------------------------------------------------------
    def add_externals(self, lock: Lock, sources: Sources) -> None:
        """All externals and their submodules; then it is tried out whether a tree can be filled from them.

        Raises:
            VendorError, OfflineMissing, HashMismatch
        """
        commits: dict[Path, set[str]] = {}
        trails: dict[str, Path] = {}
        for one in lock.externals:
            self._walk(one, (one.name,), sources, commits, trails, inside=False)
        for mirror, wanted in sorted(commits.items()):
            path = self._pack(f"git/{mirror.stem}.pack", mirror, sorted(wanted))
            for trail, repository in trails.items():
                if repository == mirror:
                    self._supply(trail, path)
        self._try(lock)

    def _walk(
        self,
        one: LockedExternal | LockedSubmodule,
        trail: tuple[str, ...],
        sources: Sources,
        commits: dict[Path, set[str]],
        trails: dict[str, Path],
        *,
        inside: bool,
    ) -> None:
        source = given_source(sources, trail, one.url)
        if source is not None and is_files(source):
            self._add_files("/".join(trail), source)
            inside = True
        else:
            mirror = ExternalMirror(one.url, source, self.cache, self.emit)
            # A submodule that came with the folder or archive of its parent need not be had anywhere else.
            if not inside or source is not None or mirror.has(one.commit):
                self._fetch(one, mirror, trail)
                commits.setdefault(mirror.content, set()).add(one.commit)
                if trails.setdefault("/".join(trail), mirror.content) != mirror.content:
                    raise BundleError(
                        f"{'/'.join(trail)} is declared twice, with different repositories.",
                        why="A bundle holds one repository for each name.",
                        next="Build that release with network.",
                    )
        for part in one.submodules:
            self._walk(part, (*trail, part.path), sources, commits, trails, inside=inside)

    def _fetch(
        self, one: LockedExternal | LockedSubmodule, mirror: ExternalMirror, trail: tuple[str, ...]
    ) -> None:
        if self.offline and not mirror.local and not mirror.has(one.commit):
            raise OfflineMissing(
                f"The external source {'/'.join(trail)} is not in the cache, and --offline forbids to fetch it.",
                next="Run the same command with network.",
                details=[f"{'/'.join(trail)}: {one.url} at {one.commit}"],
            )
        ref = one.revision if isinstance(one, LockedExternal) and one.revision != one.commit else ""
        trying(lambda: mirror.fetch(one.commit, ref), mirror, trail, self.emit)

    def _add_files(self, trail: str, source: ExternalSource) -> None:
        words = re.sub(r"[^A-Za-z0-9]+", "-", trail).strip("-")[-60:]
        path = f"externals/{len(self.supplies) + 1}-{words}.archive"
        if source.archive is not None:
            file = source.archive.expanduser().absolute()
        else:
            assert source.path is not None
            file = tar_folder(source.path.expanduser(), self.scratch / path.replace("/", "-"))
        self.add(path, file)
        self._supply(trail, path)

    def _supply(self, trail: str, path: str) -> None:
        self.supplies[trail] = Supply(trail=trail, file=path)

    def _pack(self, path: str, repository: Path, commits: list[str]) -> str:
        file = self.scratch / path.replace("/", "-")
        write_pack(repository, commits, file)
        self.packs.append(Pack(file=path, commits=tuple(commits)))
        return self.add(path, file)

    def _try(self, lock: Lock) -> None:
        from vllm_builder.stages.vendor import fetch_externals

        aside = make_dir(self.scratch / "trial")
        repositories = make_repositories(self.packs, self.files, aside)
        places = {path: repositories.get(path, file) for path, file in self.files.items()}
        sources = supplied(self.supplies.values(), places)
        fetch_externals(lock, sources, make_dir(aside / "tree"), Cache(aside / "cache"), offline=True)


def make_repositories(packs: Iterable[Pack], files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """A repository below ``folder`` for each pack; by the pack's path in the bundle.

    Raises:
        BundleError
    """
    found = {}
    for pack in packs:
        found[pack.file] = repository_of(pack, folder)
        make_repository(files[pack.file], pack.commits, found[pack.file])
    return found


def repository_of(pack: Pack, folder: Path) -> Path:
    return folder / _REPOSITORIES / pack.file.replace("/", "-").replace(".pack", ".git")


def supplied(supplies: Iterable[Supply], places: Mapping[str, Path]) -> dict[str, ExternalSource]:
    """Where the external sources come from, as settings have it."""
    found = {}
    for one in supplies:
        place = places[one.file]
        found[one.trail] = ExternalSource(git=str(place)) if place.is_dir() else ExternalSource(archive=place)
    return found


def tar_folder(folder: Path, dest: Path) -> Path:
    """A folder's files as an archive that depends on nothing but them; what git keeps is left out."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        # Hard links are written out: whoever unpacks must not share the content of files.
        archive.inodes.clear()  # type: ignore[attr-defined]  # tarfile's memory of them
        if ".git" in info.name.split("/"):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = _WHEN
        info.mode = 0o755 if info.mode & 0o100 else 0o644
        return info

    with (
        os_errors(f"packing {folder}"),
        dest.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(folder, "tree", filter=plain)
    return dest
