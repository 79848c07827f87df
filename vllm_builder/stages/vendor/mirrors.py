"""Where the objects of externals come from: one bare mirror per repository, however its URL is spelled."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urljoin

from vllm_builder.cache import Cache
from vllm_builder.errors import HashMismatch, VendorError
from vllm_builder.events import Emit, Note
from vllm_builder.fs import write_atomic
from vllm_builder.indexes import redact
from vllm_builder.stages.source.gitrun import GitFailed
from vllm_builder.stages.source.mirror import Mirror, is_local
from vllm_builder.stages.vendor.model import ExternalSource, Sources
from vllm_builder.stages.vendor.treehash import tree_hash, wanted

T = TypeVar("T")
WAITS: tuple[float, ...] = (1.0, 4.0)
"""Seconds between the tries to reach a repository."""
_AT_ONCE: Final = 10_000
_FINAL: Final = re.compile(
    "not our ref|unadvertised|remote ref|does not appear to be|not found|no git on this"
)


def repository_key(url: str) -> str:
    """The same text for all spellings of one repository's URL: ``github.com/nvidia/cutlass``.

    Two repositories that differ in case alone share a mirror; what is taken from it is named by hash anyway.
    """
    plain = re.sub(r"^[a-z+]+://", "", redact(url).casefold())
    plain = re.sub(r"^[^/@]*@([^/:]+):", r"\1/", plain)
    return plain.rstrip("/").removesuffix(".git")


def repository_name(url: str) -> str:
    return repository_key(url).rpartition("/")[2]


def is_repository(path: Path) -> bool:
    """Whether a folder is a git repository, with or without a work tree."""
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def is_files(source: ExternalSource) -> bool:
    """Whether it gives plain files, not a repository."""
    if source.archive is not None:
        return True
    return source.path is not None and not is_repository(source.path.expanduser())


def given_source(sources: Sources, trail: tuple[str, ...], url: str) -> ExternalSource | None:
    """What the person said about an external or a submodule.

    Args:
        trail: the external's name, then the paths of submodules down to this one.
    """
    by_name = {name.casefold(): source for name, source in sources.items()}
    found = by_name.get("/".join(trail).casefold())
    if found is not None and (found.git or found.path or found.archive):
        return found
    # A mirror serves every revision; a folder or an archive is one revision and serves its own name alone.
    shared = by_name.get(repository_name(url))
    if shared is not None and (shared.git or (shared.path and is_repository(shared.path.expanduser()))):
        return shared
    if shared is not None and len(trail) == 1 and (shared.path or shared.archive):
        return shared
    return None


def location(source: ExternalSource | None, url: str) -> str:
    """The repository to fetch from."""
    if source is not None and source.git:
        return source.git
    if source is not None and source.path is not None:
        return str(source.path)
    return url


def submodule_url(parent: str, url: str) -> str:
    """The URL of a submodule; ``../other.git`` is relative to the repository that holds it."""
    if not url.startswith(("./", "../")):
        return url
    if "://" in parent:
        return urljoin(parent.rstrip("/") + "/", url)
    return str((Path(parent) / url).resolve()) if parent.startswith("/") else f"{parent}/{url}"


class ExternalMirror(Mirror):
    """The mirror of a repository, filled from wherever it can be had."""

    submodules_noted = False
    _files_only = False

    def __init__(self, url: str, source: ExternalSource | None, cache: Cache, emit: Emit) -> None:
        super().__init__(location(source, url), cache, emit)
        key = repository_key(url)
        words = re.sub(r"[^a-z0-9]+", "-", key).strip("-")[-40:]
        self.content = (
            cache.git.absolute() / f"external-{words}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.git"
        )
        self.declared = url

    @property
    def local(self) -> bool:
        return is_local(self.url)

    def resolve(self, revision: str) -> tuple[str, str]:
        """Commit and ref of a tag, branch or full commit hash.

        Raises:
            GitFailed: it does not exist, or the repository does not answer.
        """
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision, ""
        names = (f"refs/tags/{revision}", f"refs/heads/{revision}")
        refs = self.refs(*names, f"{names[0]}^{{}}")
        for name in names:
            if name in refs:
                return refs[name], name
        raise GitFailed(f"there is no tag or branch {revision} (remote ref)")

    def checkout(self, commit: str, folder: Path, select: Callable[[str], bool] | None = None) -> None:
        # Above the repository's own .gitattributes: a file has the bytes that its hash is over.
        exact = self.content / "info" / "attributes"
        if not exact.is_file():
            write_atomic(exact, "* -text -filter -ident -working-tree-encoding\n")
        super().checkout(commit, folder, select or wanted)

    def fetch(self, commit: str, ref: str = "") -> None:
        """Bring one commit and those of its files that are wanted, where the server can send them apart.

        Raises:
            GitFailed
            HashMismatch: the ref that has it in the lock is another commit by now.
        """
        if self.has(commit):
            return
        with self._locked(self.content):
            if self.has(commit):
                return
            only = ["--depth=1", "--no-tags", "--filter=blob:none", *self._server()]
            try:
                self._fetch(self.content, only, f"+{commit}:refs/partial/{commit}")
            except GitFailed as error:
                if not ref or not re.search("unadvertised|not our ref|upload-pack|remote ref", str(error)):
                    raise
                self._fetch(self.content, only, f"+{ref}:refs/asked")
                got = self._git(self.content, "rev-parse", "refs/asked^{commit}").strip()
                if got != commit:
                    raise HashMismatch(
                        f"{ref} of {redact(self.url)} is not the commit that the lock names.",
                        why=f"The lock has {commit[:12]}; there {ref} is {got[:12]}, and {commit[:12]} cannot be had.",
                        next="If the tag was moved on purpose, write a new lock (vllm-builder vendor VERSION --lock); "
                        "else give the exact revision with another git, path or archive in [externals.NAME].",
                    ) from error
            files = {blob for mode, blob, path in self.files(commit) if mode != "160000" and wanted(path)}
            listed = self._git(
                self.content, "rev-list", "--objects", "--no-object-names", "--missing=print", "-1", commit
            )
            absent = sorted(files & {line[1:] for line in listed.splitlines() if line.startswith("?")})
            self._files_only = True
            try:
                for start in range(0, len(absent), _AT_ONCE):
                    part = absent[start : start + _AT_ONCE]
                    self._fetch(self.content, ["--no-tags", "--filter=blob:none", *self._server()], *part)
            finally:
                self._files_only = False
            self._git(self.content, "update-ref", f"refs/commits/{commit}", commit)

    def _config(self) -> dict[str, str]:
        # The server must not think that whoever has a commit has its files.
        said = {"fetch.negotiationAlgorithm": "noop"} if self._files_only else {}
        return {**super()._config(), **said}

    def _server(self) -> list[str]:
        """A repository on this machine is asked as if its owner had allowed to send files apart."""
        if not self.local:
            return []
        allow = "-c uploadpack.allowFilter=true -c uploadpack.allowAnySHA1InWant=true"
        return [f"--upload-pack=git {allow} upload-pack"]

    def tree_of(self, commit: str) -> str:
        """See :func:`tree_hash`."""
        return tree_hash(self.files(commit))

    def text(self, commit: str, path: str) -> bytes:
        found = self._git(self.content, "cat-file", "blob", f"{commit}:{path}")
        return found.encode("utf-8", "surrogateescape")

    def gitmodules(self, commit: str) -> dict[str, str]:
        """Path -> URL, as .gitmodules says it."""
        try:
            listed = self._git(self.content, "config", "--blob", f"{commit}:.gitmodules", "--list", "-z")
        except GitFailed:
            return {}
        found: dict[str, dict[str, str]] = {}
        for record in listed.split("\0"):
            key, _, value = record.partition("\n")
            section, _, name = key.rpartition(".")
            if section.startswith("submodule."):
                found.setdefault(section, {})[name] = value
        return {item["path"]: item["url"] for item in found.values() if "path" in item and "url" in item}


def trying(action: Callable[[], T], mirror: ExternalMirror, trail: tuple[str, ...], emit: Emit) -> T:
    """Do something that needs a repository; try again where that can help.

    Raises:
        VendorError: names the external, the place that was asked, and how to supply it otherwise.
    """
    waits = () if mirror.local else WAITS
    for number in range(len(waits) + 1):
        try:
            return action()
        except GitFailed as error:
            if number < len(waits) and not _FINAL.search(str(error)):
                emit(
                    Note(
                        stage="vendor",
                        message=f"{'/'.join(trail)}: {redact(mirror.url)} gave {error}; trying again.",
                        level="warning",
                    )
                )
                time.sleep(waits[number])
                continue
            raise VendorError(
                f"The external source {'/'.join(trail)} could not be fetched.",
                why=f"{redact(mirror.url)}: {error}" + (f" ({number + 1} tries)." if number else "."),
                next=how_to_supply(trail),
            ) from error
    raise AssertionError("unreachable")


def how_to_supply(trail: tuple[str, ...]) -> str:
    name = "/".join(trail)
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    return (
        f'Supply it in vllm-builder.toml: [externals.{key}] with git = "MIRROR", path = "FOLDER" or '
        'archive = "FILE.zip"; or try again later.'
    )
