"""From what a person asked for to one source, identified by content.

Exact releases are asked for once: a tag's commit and a file's hash do not change (``refresh`` asks again).
``latest``, branches and other names that move are asked for each time. This module imports little: with
everything remembered it is the whole cost of finding a source.
"""

from __future__ import annotations

from typing import Final

from vllm_builder.cache import Cache
from vllm_builder.errors import OfflineMissing
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.indexes import redact
from vllm_builder.memo import Memo
from vllm_builder.stages.source.model import SourcePin, SourceRequest

_FORMAT: Final = 1

FALLBACK_FOR = 86400.0
"""Seconds for which an sdist is taken again, without asking, because git did not answer."""


def resolve(request: SourceRequest, cache: Cache, emit: Emit = ignore) -> SourcePin:
    """Find the source that a request means, and bring it into the cache.

    Raises:
        ReleaseNotFound: names near releases.
        SourceError: neither git nor an index could be asked, or it is no vLLM tree.
        OfflineMissing: names what is in no cache.
        ContradictionError: VERSION is not what the given path holds.
        HashMismatch, HostileArchive, NoSpace, NotWritable
    """
    if request.kind == "path":
        from vllm_builder.stages.source.paths import resolve_path

        return resolve_path(request, cache, emit)
    memo = Memo(cache.memo, "source")
    if not request.refresh:
        pin = _remembered(request, memo, cache, emit)
        if pin is not None:
            return pin
    from vllm_builder.stages.source.lookup import look_up

    pin, fixed = look_up(request, cache, emit)
    if pin.kind == "git" and _is_local(request.git_url):
        fixed = False  # asking it costs milliseconds, and its tags are the person's to move
    # The sdist in place of a git that did not answer: good for a while, not for ever.
    fallback = request.kind == "auto" and pin.kind == "sdist"
    answer = {"pin": pin.model_dump(), "fixed": fixed, "fallback": fallback}
    memo.put(_question(request, request.kind), answer)
    return pin


def _question(request: SourceRequest, kind: str) -> list[object]:
    version = request.version.strip()
    if kind == "pypi":
        version = version.removeprefix("v")  # the same release; with git it may be another tag
    indexes = request.indexes
    places = [indexes.index_url, *indexes.extra_index_urls, *indexes.find_links]
    return [
        _FORMAT,
        kind,
        version,
        redact(request.git_url) if kind != "pypi" else "",
        [*map(redact, places), indexes.no_index] if kind != "git" else [],
    ]


def _is_local(url: str) -> bool:
    return ("://" not in url and ":" not in url.split("/")[0]) or url.startswith("file:")


def _remembered(request: SourceRequest, memo: Memo, cache: Cache, emit: Emit) -> SourcePin | None:
    kinds = ("auto", "git", "pypi") if request.kind == "auto" and request.offline else (request.kind,)
    lost: SourcePin | None = None
    for kind in kinds:
        answer = memo.get(_question(request, kind))
        if answer is None or not (answer["fixed"] or request.offline):
            continue
        if answer.get("fallback") and not request.offline:
            if memo.get(_question(request, kind), max_age=FALLBACK_FOR) is None:
                continue
            emit(
                Note(stage="source", message=f"Taking {answer['pin']['reason']} (--refresh asks git again).")
            )
        pin = SourcePin.model_validate(answer["pin"])
        if not request.offline or _present(pin, cache):
            return pin.model_copy(update={"reason": f"{pin.reason} (remembered; --refresh asks again)"})
        lost = lost or pin
    if lost is not None:
        raise OfflineMissing(
            f"The source of vLLM {lost.release} left the cache, and --offline forbids to fetch it.",
            why="It was found once, but the cache has been emptied since.",
            next="Run the same command once with network.",
            details=[f"{lost.name} ({lost.identity}) from {lost.location}"],
        )
    return None


def _present(pin: SourcePin, cache: Cache) -> bool:
    from vllm_builder.stages.source.surveying import survey_folder

    if survey_folder(pin, cache).is_dir() or pin.location.startswith(("file:", "/")):
        return True
    if pin.kind == "sdist":
        return (cache.downloads / "sha256" / pin.identity.removeprefix("sha256:") / pin.name).is_file()
    from vllm_builder.stages.source.mirror import Mirror

    return Mirror(pin.location, cache, ignore).has(pin.identity.removeprefix("git:"))
