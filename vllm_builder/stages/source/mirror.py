"""A bare mirror per repository URL, in which nothing but the wanted commits ever arrives."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vllm_builder.cache import Cache
from vllm_builder.errors import SourceError
from vllm_builder.events import Emit, Note, Progress
from vllm_builder.fs import make_dir, os_errors, remove_tree
from vllm_builder.indexes import redact
from vllm_builder.stages.source.gitrun import GitFailed, low_speed_limits, run_git, with_credentials
from vllm_builder.stages.source.links import link_problem

LS_REMOTE_TIMEOUT = 20.0
"""Seconds for one question about refs: a host that swallows packets must not hold up a build for minutes."""
FETCH_IDLE_TIMEOUT = 120.0
"""Seconds without progress until a fetch is given up."""
FETCH_TIMEOUT: Final = 3600.0
_TAGS: Final = "v[0-9]*"
# All depth, said explicitly: a source that is shallow itself then says where it ends. Otherwise git takes
# the missing commits for ones that it may fetch later and asks for each of them, again and again.
_COMMITS_ONLY: Final = ["--filter=tree:0", "--no-tags", "--depth=2147483647"]
# No name that the repository in whose folder the person stands could have configured.
_REMOTE: Final = "vllm-builder-source"
_REGULAR: Final = {"100644", "100755", "100664"}


def is_local(url: str) -> bool:
    """Whether a repository URL needs no network."""
    return url.startswith("file:") or (
        "://" not in url and not re.match(r"[^/]+@?[^/]*:", url) and Path(url).expanduser().exists()
    )


class Mirror:
    """What is known of one repository.

    ``content`` holds single commits with their files (shallow, depth 1); ``history``, made only for a ref
    that is no release tag, holds commits without files. They are apart because git takes the shallow
    commits of the first for the beginning of all history.
    """

    submodules_noted = True
    """Whether a checkout says which submodules stay empty."""

    def __init__(self, url: str, cache: Cache, emit: Emit) -> None:
        if url.startswith("-"):
            raise SourceError(f"{url!r} is no repository URL.", next="Correct --git-url.")
        self.url = str(Path(url).expanduser().absolute()) if is_local(url) and "://" not in url else url
        self._remote, self._variables = with_credentials(_REMOTE, self.url)
        self._emit = emit
        plain = redact(self.url)
        words = re.sub(r"[^A-Za-z0-9]+", "-", plain.removesuffix(".git")).strip("-")[-40:]
        folder = f"{words}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"
        self.content = cache.git / f"{folder}.git"
        self.history = cache.git / f"{folder}.history.git"

    # -- asking -------------------------------------------------------------------------------
    def refs(self, *patterns: str) -> dict[str, str]:
        """Refs of the repository and their commits; annotated tags are followed to their commit.

        Raises:
            GitFailed
        """
        text = run_git(
            ["ls-remote", "--quiet", _REMOTE, *patterns],
            config=self._config(),
            variables=self._variables,
            timeout=LS_REMOTE_TIMEOUT,
            secret_url=self.url,
        )
        found: dict[str, str] = {}
        for line in text.splitlines():
            commit, _, ref = line.partition("\t")
            if ref.endswith("^{}"):
                found[ref.removesuffix("^{}")] = commit
            else:
                found.setdefault(ref, commit)
        return found

    def tags(self) -> dict[str, str]:
        """Release-like tags and their commits."""
        found = self.refs(f"refs/tags/{_TAGS}", f"refs/tags/{_TAGS}^{{}}")
        return {ref.removeprefix("refs/tags/"): commit for ref, commit in found.items()}

    # -- fetching -----------------------------------------------------------------------------
    def has(self, commit: str) -> bool:
        """Whether the commit is here with all its files (its ref is written last)."""
        if not self.content.is_dir():
            return False
        try:
            self._git(self.content, "rev-parse", "--verify", "--quiet", f"refs/commits/{commit}^{{tree}}")
        except GitFailed:
            return False
        return True

    def fetch(self, commit: str, ref: str = "") -> None:
        """Bring one commit with its files.

        Args:
            ref: where the commit was found; asked for where the server gives no commits by their hash.

        Raises:
            GitFailed
        """
        if self.has(commit):
            return
        with self._locked(self.content):
            if self.has(commit):
                return
            try:
                self._fetch(self.content, ["--depth=1", "--no-tags"], f"+{commit}:refs/commits/{commit}")
            except GitFailed as error:
                # Servers that speak only the old protocol want the name of a ref.
                if not ref or not re.search("unadvertised|not our ref|upload-pack|remote ref", str(error)):
                    raise
                self._fetch(self.content, ["--depth=1", "--no-tags"], f"+{ref}:refs/asked")
                got = self._git(self.content, "rev-parse", "refs/asked^{commit}").strip()
                if got != commit:
                    raise GitFailed(f"{ref} moved from {commit[:12]} to {got[:12]} meanwhile") from error
                self._git(self.content, "update-ref", f"refs/commits/{commit}", commit)

    def complete(self, abbreviated: str) -> str | None:
        """The full hash of an abbreviated commit, or None.

        Raises:
            GitFailed
        """
        with self._locked(self.history):
            for refspecs in (
                ["+HEAD:refs/asked", "+refs/tags/v*:refs/tags/v*"],
                ["+refs/heads/*:refs/heads/*"],
            ):
                self._fetch(self.history, _COMMITS_ONLY, *refspecs)
                try:
                    return self._git(
                        self.history, "rev-parse", "--verify", "--quiet", f"{abbreviated}^{{commit}}"
                    ).strip()
                except GitFailed:
                    continue
        return None

    def describe(self, commit: str) -> tuple[str, int]:
        """The nearest release tag before a commit and the number of commits since.

        Fetches the history without files.

        Raises:
            GitFailed
        """
        with self._locked(self.history):
            self._fetch(
                self.history,
                _COMMITS_ONLY,
                f"+{commit}:refs/commits/{commit}",
                "+refs/tags/v*:refs/tags/v*",
            )
            try:
                return describe(["--git-dir", str(self.history)], commit)
            finally:
                if (self.history / "shallow").exists():
                    remove_tree(self.history)  # else it stays short when the other side no longer is

    # -- using --------------------------------------------------------------------------------
    def commit_time(self, commit: str) -> int:
        """Seconds since the epoch."""
        return int(self._git(self.content, "show", "--no-patch", "--format=%ct", commit).split()[-1])

    def files(self, commit: str) -> Iterator[tuple[str, str, str]]:
        """Mode, object and path of every file of a commit."""
        for record in self._git(self.content, "ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
            if record:
                head, _, path = record.partition("\t")
                mode, _, blob = head.split()
                yield mode, blob, path

    def checkout(self, commit: str, folder: Path, select: Callable[[str], bool] | None = None) -> None:
        """Write the files of a commit into an empty folder, all with the commit's time, without ``.git``.

        Raises:
            SourceError: a link of the commit leaves the tree.
            GitFailed
        """
        paths = []
        links = {}
        for mode, blob, path in self.files(commit):
            if mode == "120000":
                links[tuple(path.split("/"))] = blob
            elif mode not in _REGULAR:
                if self.submodules_noted:
                    self._emit(
                        Note(
                            stage="source",
                            message=f"{path} is a submodule of its own and stays empty.",
                            level="warning",
                        )
                    )
                continue
            if select is None or select(path):
                paths.append(path)
        for parts, blob in links.items():
            target = self._git(self.content, "cat-file", "blob", blob)
            if problem := link_problem(parts, target, links.__contains__):
                raise SourceError(
                    f"{'/'.join(parts)} in commit {commit[:12]} {problem}.",
                    next="Take another commit or another --source.",
                )
        place = {"GIT_INDEX_FILE": str(folder.parent / "index"), "GIT_WORK_TREE": str(folder)}
        # The bytes of the commit, whatever the person's own settings do to checkouts.
        exact = {"core.autocrlf": "false", "core.eol": "lf", "core.symlinks": "true", "core.fileMode": "true",
                 "core.attributesFile": os.devnull, "core.bare": "false"}  # fmt: skip
        self._git(self.content, "read-tree", commit, variables=place, config=exact)
        self._git(
            self.content,
            *("checkout-index", "--force", "--quiet", "-z", "--stdin"),
            variables=place,
            config=exact,
            stdin="".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape"),
        )
        when = self.commit_time(commit)
        for path in paths:
            os.utime(folder / path, (when, when), follow_symlinks=False)

    # -- plumbing -----------------------------------------------------------------------------
    def _config(self) -> dict[str, str]:
        return {**self._remote, **low_speed_limits()}

    def _git(
        self,
        repository: Path,
        *arguments: str,
        variables: dict[str, str] | None = None,
        config: dict[str, str] | None = None,
        stdin: bytes | None = None,
    ) -> str:
        return run_git(
            ["--git-dir", str(repository), *arguments],
            variables=variables or {},
            config=config or {},
            stdin=stdin,
        )

    def _fetch(self, repository: Path, options: list[str], *refspecs: str) -> None:
        if not (repository / "HEAD").is_file():
            run_git(["init", "--quiet", "--bare", "--template=", str(repository)])
        for left in (*repository.glob("*.lock"), *repository.glob("refs/**/*.lock")):
            left.unlink(missing_ok=True)  # of a process that was killed: we hold the lock of the mirror
        run_git(
            [
                "--git-dir",
                str(repository),
                "fetch",
                "--progress",
                "--no-write-fetch-head",
                *options,
                _REMOTE,
                *refspecs,
            ],
            config=self._config(),
            variables=self._variables,
            timeout=FETCH_TIMEOUT,
            idle=FETCH_IDLE_TIMEOUT,
            on_line=_Counter(self._emit, f"Fetching from {redact(self.url)}"),
            secret_url=self.url,
        )

    @contextmanager
    def _locked(self, repository: Path) -> Iterator[None]:
        from filelock import FileLock

        make_dir(repository.parent)
        with os_errors(f"using the mirror {repository}"), FileLock(f"{repository}.lock"):
            yield


def describe(where: list[str], commit: str) -> tuple[str, int]:
    """``git describe`` over release tags: tag and distance.

    Raises:
        GitFailed: no release tag before it, or not enough history.
    """
    text = run_git([*where, "describe", "--tags", "--long", "--match", _TAGS, commit]).strip()
    tag, distance, _ = text.rsplit("-", 2)
    return tag, int(distance)


class _Counter:
    """git's own progress lines as events."""

    def __init__(self, emit: Emit, task: str) -> None:
        self._emit, self._task, self._next = emit, task, 0.0

    def __call__(self, line: str) -> None:
        match = re.match(r"Receiving objects:\s+\d+% \((\d+)/(\d+)\)", line)
        if not match:
            return
        now = time.monotonic()
        if now >= self._next or match[1] == match[2]:
            self._next = now + 0.1
            self._emit(
                Progress(
                    stage="source",
                    task=self._task,
                    done=int(match[1]),
                    total=int(match[2]),
                    unit="objects",
                )
            )
