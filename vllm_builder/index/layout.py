"""Where everything lies in an index. Keys are relative, with ``/``; a copied folder serves from anywhere.

::

    files/PROJECT/VERSION/SHA256/NAME.whl            each wheel once, never changed; SHA256.1 where it was deleted before
    files/PROJECT/VERSION/SHA256/NAME.whl.metadata   its METADATA (PEP 658)
    files/PROJECT/VERSION/SHA256/NAME.whl.intoto.jsonl   its provenance
    manifest/root.json                               the one file that is replaced by compare-and-swap
    manifest/PROJECT/VARIANT/SHA256.json             shards: never changed
    journal/ID.json                                  changes whose pages may not be written yet
    CHANNEL/VARIANT/index.html, index.json           projects (PEP 503, PEP 691)
    CHANNEL/VARIANT/PROJECT/index.html, index.json   files
    index.html, landing/                             the page for people
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from packaging.version import InvalidVersion, Version

from vllm_builder.errors import PublishRefused, SettingsError

ROOT: Final = "manifest/root.json"
JOURNAL: Final = "journal/"
FILES: Final = "files/"
MANIFEST: Final = "manifest/"
LANDING: Final = "landing/"
LANDING_PAGE: Final = "index.html"
JSON_ROOT: Final = "json/"
"""On object stores: the JSON pages once more, at the addresses that a client asks for."""

HTML: Final = "index.html"
JSON: Final = "index.json"
SIDECAR: Final = ".metadata"
PROVENANCE: Final = ".intoto.jsonl"

RESERVED: Final = frozenset({"files", "manifest", "journal", "landing", "json", "simple", "index.html"})
_DEPTH: Final = 5
_WHOLE: Final = 3
"""Numbers of a whole version, as 0.9.2."""
_CONTENT: Final = re.compile(r"([0-9a-f]{64})(?:\.([1-9][0-9]{0,8}))?")
_USUAL: Final = re.compile(r"[A-Za-z0-9_.~/+-]*")
_WORD: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")


def others_in(keys: Iterable[str]) -> tuple[str, ...]:
    """Folders below that are an index of their own, copied there perhaps: nothing in them is of this one."""
    return tuple(key.removesuffix(ROOT) for key in keys if key.endswith(f"/{ROOT}"))


def channel_name(text: str) -> str:
    """Check the name of a channel: ``nightly``, ``release``, ``0.9.2``, a commit.

    Raises:
        SettingsError: it cannot be a folder of an index.
    """
    return _checked(text, "channel", "nightly, release, 0.9.2")


def suits(channel: str, version: str, filename: str) -> None:
    """Check that a channel that is named as a version is the one of this version.

    ``0.9.2/cu130/`` is an index of that version alone. ``0.9`` and ``2026-11`` are names as any other.

    Raises:
        PublishRefused: it is the channel of another version.
    """
    try:
        named = Version(channel)
    except InvalidVersion:
        return
    if len(named.release) < _WHOLE or named == Version(Version(version).public):
        return
    raise PublishRefused(
        f"{filename} cannot be in the channel {channel}: it is of version {version}.",
        why=f"The channel {channel} is the one of that version: who installs from it would get another.",
        next="Choose a name that is no version, for example release; each wheel is in the channel of its version anyway.",
    )


def variant_name(text: str) -> str:
    """Check the name of a variant: ``cu130``, ``cpu``.

    Raises:
        SettingsError: it cannot be a folder of an index.
    """
    return _checked(text, "variant", "cu130, cu129, cpu")


def _checked(text: str, what: str, examples: str) -> str:
    if not _WORD.fullmatch(text) or ".." in text or text in RESERVED:
        raise SettingsError(
            f"{text!r} cannot be the name of a {what}.",
            why="That name is taken for the index itself."
            if text in RESERVED
            else "It becomes a folder and a part of addresses: small letters, digits, '.', '_', '-', at most 100.",
            next=f"Choose another, for example {examples}.",
        )
    return text


def wheel_key(project: str, version: str, sha256: str, filename: str, generation: int = 0) -> str:
    """A key whose content was deleted is never used again: who deletes may be slow, and must not hit what came later."""
    folder = f"{sha256}.{generation}" if generation else sha256
    return f"{FILES}{project}/{version}/{folder}/{filename}"


def content_of(key: str) -> tuple[str, int] | None:
    """SHA-256 and generation of a wheel's key, or of what lies beside it; None for another key."""
    parts = key.split("/")
    if not key.startswith(FILES) or len(parts) != _DEPTH or not (found := _CONTENT.fullmatch(parts[3])):
        return None
    return found[1], int(found[2] or 0)


def shard_key(project: str, variant: str, sha256: str) -> str:
    return f"{MANIFEST}{project}/{variant}/{sha256}.json"


def journal_key(identity: str) -> str:
    return f"{JOURNAL}{identity}.json"


def folder_of(channel: str, variant: str, project: str = "") -> str:
    """The folder of a page, with a slash at its end."""
    return f"{channel}/{variant}/{project}/" if project else f"{channel}/{variant}/"


def relative(key: str, page: str) -> str:
    """The link from a page (its key or its folder) to a key, percent-encoded: ``+`` is ``%2B``."""
    up = "../" * page.count("/")
    if _USUAL.fullmatch(key):
        # What quote() makes of it, at a tenth of the time: a page may have thousands of links.
        return up + key.replace("+", "%2B")
    return up + quote(key, safe="/")
