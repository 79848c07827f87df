"""Which files of an index a person means: by file name, version, or the beginning of a hash."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vllm_builder.errors import NotInIndex, did_you_mean
from vllm_builder.index.model import File

_HASH: Final = re.compile(r"(?:sha256[:=])?([0-9a-f]{6,64})")
_SHOWN: Final = 8


class Chosen(NamedTuple):
    """A file, and the variant that it is of."""

    variant: str
    file: File

    @property
    def where(self) -> tuple[str, str]:
        return self.file.project, self.variant


def public_version(version: str) -> str:
    """``0.9.2+cu130`` -> ``0.9.2``."""
    return Version(version).public


def select(files: Iterable[tuple[str, File]], spec: str) -> tuple[Chosen, ...]:
    """The files that a text names, newest first.

    Args:
        files: variant and file, of all that is there.
        spec: a file name, ``vllm==0.9.2+cu130``, ``0.9.2+cu130``, ``0.9.2`` (all its variants), or at least 6 characters
            of a SHA-256.

    Raises:
        NotInIndex: none is meant, or several that have nothing in common.
    """
    known = [Chosen(*one) for one in files]
    wanted = spec.strip()
    found = [one for one in known if one.file.filename == wanted]
    found = found or _by_version(known, wanted)
    if not found and (match := _HASH.fullmatch(wanted.lower())):
        found = [one for one in known if one.file.sha256.startswith(match[1])]
        if len({one.file.sha256 for one in found}) > 1:
            raise NotInIndex(
                f"{len(found)} files have a SHA-256 that begins with {match[1]}.",
                next="Give more of it, or a file name.",
                details=_names(found),
            )
    if not found:
        raise NotInIndex(
            f"No file of the index is {spec!r}{_near(known, wanted)}.",
            why="Nothing is published there yet." if not known else "",
            next="Name a file, a version (0.9.2 for all its variants, 0.9.2+cu130 for one) or at least 6 characters of a "
            "SHA-256; `vllm-builder index list` shows what is there.",
        )
    return tuple(sorted(found, key=lambda one: one.file.uploaded, reverse=True))


def _by_version(known: list[Chosen], wanted: str) -> list[Chosen]:
    project, equals, text = wanted.rpartition("==")
    try:
        version = Version(text.strip())
    except InvalidVersion:
        return []
    name = canonicalize_name(project.strip()) if equals else ""
    found = [one for one in known if not name or one.file.project == name]
    if version.local:
        found = [one for one in found if Version(one.file.version) == version]
    else:
        found = [one for one in found if Version(public_version(one.file.version)) == version]
    if len(projects := sorted({one.file.project for one in found})) > 1:
        raise NotInIndex(
            f"{len(projects)} projects have a version {text}.",
            next=f"Say which: {' or '.join(f'{project}=={text}' for project in projects[:3])}.",
            details=_names(found),
        )
    return found


def _near(known: list[Chosen], wanted: str) -> str:
    words: dict[str, None] = {}
    for one in known:
        public = public_version(one.file.version)
        same = {one.file.filename, one.file.version, public}
        words.update(dict.fromkeys(same | {f"{one.file.project}=={version}" for version in same}))
    return did_you_mean(wanted, words)


def _names(found: list[Chosen]) -> tuple[str, ...]:
    shown = [f"{one.file.filename} ({one.variant}, sha256 {one.file.sha256[:12]})" for one in found[:_SHOWN]]
    return (*shown, f"and {len(found) - _SHOWN} more") if len(found) > _SHOWN else tuple(shown)
