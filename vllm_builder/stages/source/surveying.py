"""The few files of a release that a plan reads, kept apart so that planning again costs nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.events import Emit, ignore
from vllm_builder.stages.source.model import SourcePin, SourceRequest


def survey_folder(pin: SourcePin, cache: Cache, patterns: Sequence[str] | None = None) -> Path:
    """Where the survey of a source is or would be."""
    text = "\n".join(_patterns(patterns))
    return cache.surveys / f"{pin.identity.replace(':', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def survey(
    pin: SourcePin,
    cache: Cache,
    emit: Emit = ignore,
    *,
    patterns: Sequence[str] | None = None,
    offline: bool = False,
    request: SourceRequest | None = None,
) -> Path:
    """A folder with those files of a source that match ``patterns``, and no others. Do not write to it.

    Made once per source and set of patterns; asking again costs one ``stat``.

    Args:
        patterns: globs relative to the root (``*`` stays within a folder, ``**`` crosses folders);
            by default what the patch stage reads.
        offline: fail rather than fetch what is not in the cache.
        request: where the pin came from; carries credentials for fetching again what a pruned cache lost.

    Raises:
        SourceError, HashMismatch, HostileArchive, OfflineMissing, NoSpace, NotWritable
    """
    folder = survey_folder(pin, cache, patterns)
    if folder.is_dir():
        return folder
    from vllm_builder.stages.source.materialise import materialise
    from vllm_builder.stages.source.paths import check_is_vllm

    def check(tree: Path) -> None:
        check_is_vllm(tree, pin.location)

    matches = matcher(_patterns(patterns))
    # setup.py tells a vLLM tree from any other.
    materialise(
        pin,
        folder,
        cache,
        emit,
        offline=offline,
        request=request,
        select=matches,
        check=check if patterns is None else None,
        shared=True,
    )
    return folder


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A predicate over ``/``-separated relative paths: true where one of the globs matches the whole path."""
    whole = re.compile("|".join(f"(?:{_regex(pattern)})" for pattern in patterns))
    return lambda path: whole.fullmatch(path) is not None


def _regex(pattern: str) -> str:
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(special.get(part, re.escape(part)) for part in parts)


def _patterns(patterns: Sequence[str] | None) -> Sequence[str]:
    if patterns is not None:
        return patterns
    from vllm_builder.stages.patch.survey import READ_PATTERNS

    return READ_PATTERNS
