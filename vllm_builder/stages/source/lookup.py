"""Asking git and the package indexes for a release."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, OfflineMissing, ReleaseNotFound, SourceError
from vllm_builder.events import Emit, Note
from vllm_builder.indexes import redact
from vllm_builder.memo import Memo
from vllm_builder.stages.source.gitrun import GitFailed
from vllm_builder.stages.source.listing import listing
from vllm_builder.stages.source.mirror import Mirror, is_local
from vllm_builder.stages.source.model import ReleaseFile, SourcePin, SourceRequest
from vllm_builder.stages.source.versions import is_final, parse_release, suggestion, version_after

UNREACHABLE_FOR: Final = 600.0
"""Seconds for which ``auto`` does not ask a repository again that did not answer."""

Answer = tuple[SourcePin, bool]
"""The pin, and whether the same question will always have this answer."""
_How = Callable[[SourceRequest, Cache, Emit], Answer]


@dataclass(slots=True)
class _Absent(Exception):
    """The place was asked and does not have it."""

    where: str
    why: str
    known: list[str] = field(default_factory=list)
    has_wheels: bool = False


class _Unasked(Exception):
    """The place could not be asked."""


def look_up(request: SourceRequest, cache: Cache, emit: Emit) -> Answer:
    """Ask in the order that the request allows.

    Raises:
        ReleaseNotFound, SourceError, OfflineMissing, and what downloading raises.
    """
    if request.kind == "git":
        return _only(_from_git, request, cache, emit)
    if request.kind == "pypi":
        return _only(_from_index, request, cache, emit)
    return _either(request, cache, emit)


def _only(how: _How, request: SourceRequest, cache: Cache, emit: Emit) -> Answer:
    try:
        return how(request, cache, emit)
    except _Absent as absent:
        raise _not_found(request, [absent]) from absent
    except _Unasked as unasked:
        if request.offline:
            raise _missing(request, [str(unasked)]) from unasked
        raise SourceError(
            f"vLLM {request.version} could not be looked for.",
            why=f"{unasked}.",
            next="Check the network, proxy and address; or use another --source (auto, git, pypi or a path).",
        ) from unasked


def _either(request: SourceRequest, cache: Cache, emit: Emit) -> Answer:
    """git first, for it has every commit; the sdist where git cannot be had."""
    plain = redact(request.git_url)
    memo = Memo(cache.memo, "git-unreachable")
    absents: list[_Absent] = []
    tried = None if request.refresh or request.offline else memo.get(plain, max_age=UNREACHABLE_FOR)
    try:
        if tried is not None:
            raise _Unasked(f"{tried}, some minutes ago")
        pin, fixed = _from_git(request, cache, emit)
        return pin.model_copy(update={"reason": f"git comes first and has it: {pin.reason}"}), fixed
    except _Unasked as unasked:
        why = str(unasked)
        if tried is None and not request.offline:
            memo.put(plain, why)
    except _Absent as absent:
        absents.append(absent)
        why = f"{plain} has no such tag"
    if parse_release(request.version) is None and request.version.strip() != "latest":
        if absents:
            raise _not_found(request, absents)
        if request.offline:
            raise _missing(request, [why])
        raise SourceError(
            f"{request.version!r} could not be looked for: only git has branches and commits.",
            why=f"{why}.",
            next="Name a release, for which there is an sdist; or give a reachable mirror with --git-url.",
        )
    try:
        pin, fixed = _from_index(request, cache, emit)
    except _Absent as absent:
        raise _not_found(request, [*absents, absent], "" if absents else why) from absent
    except _Unasked as unasked:
        if request.offline:
            raise _missing(request, [why, str(unasked)]) from unasked
        raise SourceError(
            f"vLLM {request.version} could not be looked for: neither git nor a package index answers.",
            why=f"git: {why}. Index: {unasked}.",
            next="Check network and proxy; with a copy on this machine: --source PATH or --git-url PATH.",
        ) from unasked
    reason = f"{pin.reason}, since {why}"
    emit(Note(stage="source", message=f"Taking the sdist {pin.name}: {why}."))
    return pin.model_copy(update={"reason": reason}), fixed


def _not_found(request: SourceRequest, absents: list[_Absent], further: str = "") -> ReleaseNotFound:
    known = [name for absent in absents for name in absent.known]
    wheels = any(absent.has_wheels for absent in absents)
    version = parse_release(request.version)
    shown = str(version) if version else repr(request.version)
    what = f"vLLM {shown} has no sdist." if wheels else f"There is no vLLM release {shown}."
    if version is None:
        what = f"There is no tag, branch or commit {shown}."
    cure = "Take it from git: --source git. " if wheels else ""
    reasons = [absent.why for absent in absents] + ([further] if further else [])
    return ReleaseNotFound(
        what,
        why="; ".join(reasons) + ".",
        next=(cure + suggestion(request.version, known)).strip() or "Check the version.",
    )


def _missing(request: SourceRequest, why: list[str]) -> OfflineMissing:
    return OfflineMissing(
        f"The source of vLLM {request.version} is in no cache, and --offline forbids to look for it.",
        why="It was never fetched with these settings on this machine.",
        next="Run the same command once with network, or give --source PATH.",
        details=[f"source of vLLM {request.version}: {reason}" for reason in why],
    )


# git --------------------------------------------------------------------------------------------
def _from_git(request: SourceRequest, cache: Cache, emit: Emit) -> Answer:
    if request.offline and not is_local(request.git_url):
        raise _Unasked(f"{redact(request.git_url)} was not asked")
    mirror = Mirror(request.git_url, cache, emit)
    plain = redact(mirror.url)
    wanted = request.version.strip()
    try:
        if wanted == "latest":
            tags = mirror.tags()
            finals = {version: tag for tag in tags if (version := parse_release(tag)) and is_final(version)}
            if not finals:
                raise _Absent(plain, f"{plain} has no tag of a final release")
            newest = max(finals)
            ref, commit, fixed = f"refs/tags/{finals[newest]}", tags[finals[newest]], False
        else:
            ref, commit, fixed = _find_ref(mirror, wanted)
        name = re.sub(r"^refs/(tags|heads)/", "", ref) if ref else commit
        release = parse_release(name) if ref.startswith("refs/tags/") else None
        mirror.fetch(commit, ref)
    except GitFailed as error:
        raise _Unasked(f"git cannot reach {plain} ({error})") from error
    text = str(release) if release else _version_of(mirror, commit, name)
    kind = "tag" if ref.startswith("refs/tags/") else "branch" if ref.startswith("refs/heads/") else "commit"
    pin = SourcePin(
        kind="git",
        release=text,
        identity=f"git:{commit}",
        name=name,
        location=plain,
        reason=f"{kind} {name if ref else name[:12]} of {plain}",
    )
    return pin, fixed


def _find_ref(mirror: Mirror, wanted: str) -> tuple[str, str, bool]:
    """Ref (empty for a bare commit), commit, and whether that will not change."""
    version = parse_release(wanted)
    tags = [wanted, *([f"v{version}", str(version)] if version else [])]
    names = [wanted] if wanted.startswith("refs/") else [f"refs/tags/{tag}" for tag in tags]
    names += [] if wanted.startswith("refs/") else [f"refs/heads/{wanted}"]
    names = list(dict.fromkeys(names))
    if not re.search(r"[\s~^:?*\[\\]|\.\.|^-", wanted):
        refs = mirror.refs(*names, *(f"{name}^{{}}" for name in names))
        for name in names:
            if name in refs:
                return name, refs[name], version is not None and name.startswith("refs/tags/")
    if re.fullmatch(r"[0-9a-f]{40}", wanted):
        return "", wanted, True
    if re.fullmatch(r"[0-9a-f]{7,39}", wanted):
        tips = {commit for commit in mirror.refs().values() if commit.startswith(wanted)}
        if len(tips) == 1:
            return "", tips.pop(), True
        whole = mirror.complete(wanted)
        if whole:
            return "", whole, True
    plain = redact(mirror.url)
    raise _Absent(
        plain, f"{plain} has neither a tag nor a branch nor a commit of that name", list(mirror.tags())
    )


def _version_of(mirror: Mirror, commit: str, name: str) -> str:
    try:
        return version_after(*mirror.describe(commit))
    except (GitFailed, ValueError) as error:
        raise SourceError(
            f"The version of {name} cannot be told.",
            why=f"It is no release tag, so its version follows from the tags before it, and the history of "
            f"{redact(mirror.url)} does not give them ({error}).",
            next="Name a release tag, or give --git-url a repository with full history and tags "
            "(git fetch --unshallow --tags).",
        ) from error


# Index ------------------------------------------------------------------------------------------
def _from_index(request: SourceRequest, cache: Cache, emit: Emit) -> Answer:
    wanted = request.version.strip()
    version = None if wanted == "latest" else parse_release(wanted)
    try:
        files, problems = listing(request.indexes, cache, offline=request.offline, emit=emit)
    except BuilderError as error:
        if not isinstance(error, SourceError):
            raise
        raise _Unasked(error.why) from error
    where = f"the configured indexes ({request.indexes.describe()})"
    sdists = [file for file in files if file.kind == "sdist"]
    if wanted == "latest":
        found = [f for f in sdists if not f.yanked and (v := parse_release(f.version)) and is_final(v)]
        if found:
            newest = max(found, key=lambda f: parse_release(f.version) or 0)
            found = [f for f in found if f.version == newest.version]
    else:
        found = [file for file in sdists if version is not None and parse_release(file.version) == version]
    if not found:
        if problems:
            raise _Unasked("; ".join(problems))
        if version is None and wanted != "latest":
            raise _Absent(where, "an index has releases only, no branches or commits: use --source git")
        listed = version is not None and any(parse_release(f.version) == version for f in files)
        why = f"{where} list it only as wheels" if listed else f"{where} do not list it"
        raise _Absent(where, why, [file.version for file in sdists if not file.yanked], has_wheels=listed)
    file = min(found, key=lambda f: (f.yanked, not f.filename.endswith(".tar.gz")))
    if file.yanked:
        reason = f": {file.yanked_reason}" if file.yanked_reason else ""
        emit(
            Note(stage="source", message=f"{file.filename} was withdrawn (yanked){reason}.", level="warning")
        )
    digest = _bring(file, request, cache, emit)
    pin = SourcePin(
        kind="sdist",
        release=file.version,
        identity=f"sha256:{digest}",
        name=file.filename,
        location=file.url,
        reason=f"the sdist that {file.index or 'the index'} lists",
    )
    return pin, wanted != "latest"


def _bring(file: ReleaseFile, request: SourceRequest, cache: Cache, emit: Emit) -> str:
    """Have the file in the cache; return its SHA-256."""
    from vllm_builder.stages.source.download import cached_file, download
    from vllm_builder.stages.source.http import Http

    if request.offline and not file.url.startswith("file:"):
        if file.sha256 and cached_file(cache, file.sha256, file.filename).is_file():
            return file.sha256
        raise _missing(request, [f"{file.filename} from {file.url}"])
    if not file.sha256:
        emit(
            Note(
                stage="source",
                message=f"{file.index} names no sha256 for {file.filename}: it is taken as it comes.",
                level="warning",
            )
        )
    with Http(request.indexes) as http:
        return download(file.url, file.filename, cache, emit, http, sha256=file.sha256)[1]
