"""Release names: reading them, finding near ones, and the version of a commit between two releases."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.version import Version

from vllm_builder.errors import did_you_mean


def parse_release(text: str) -> Version | None:
    """``v0.9.2``, ``0.9.2`` or ``0.9.2+cpu`` -> version without its local part; None for anything else."""
    try:
        return Version(Version(text.strip()).public)
    except ValueError:  # of a bad version, and of a number with thousands of digits
        return None


def is_final(version: Version) -> bool:
    """Neither a development version nor a pre-release."""
    return not (version.is_devrelease or version.is_prerelease)


def near_releases(wanted: str, known: Iterable[str]) -> list[str]:
    """The known releases that a person may have meant: the next two below, then the next one above.

    Pre-releases are offered only to who asked for one.
    """
    version = parse_release(wanted)
    releases = sorted({found for text in known if (found := parse_release(text)) is not None})
    if version is None:
        return []
    if is_final(version):
        releases = [release for release in releases if is_final(release)]
    below = [release for release in releases if release < version]
    above = [release for release in releases if release > version]
    same = [release for release in releases if release == version]
    return [str(release) for release in (*same, *reversed(below[-2:]), *above[:1])]


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """A sentence that names near releases, or other names that look alike; empty where there are none."""
    known = list(known)
    near = near_releases(wanted, known)
    if near:
        return f"Near releases: {', '.join(near)}."
    alike = did_you_mean(wanted, known)
    return f"Check the name{alike}." if alike else ""


def version_after(tag: str, distance: int) -> str:
    """The version of a commit ``distance`` commits after ``tag``, as setuptools-scm guesses it by default.

    ``v0.9.2`` and 0 -> ``0.9.2``; ``v0.9.2`` and 17 -> ``0.9.3.dev17``; ``v0.9.2rc1`` and 3 ->
    ``0.9.2rc2.dev3``: the last number of the tag's version is raised, since the commit comes before the next
    release.
    """
    release = parse_release(tag)
    if release is None:
        raise ValueError(f"{tag!r} is no version")
    if distance == 0:
        return str(release)
    base, dev, _ = str(release).partition(".dev")
    if not dev:
        base = re.sub(r"(\d+)$", lambda match: str(int(match[1]) + 1), base)
    return str(Version(f"{base}.dev{distance}"))
