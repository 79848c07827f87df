"""What the source stage takes and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vllm_builder.indexes import Indexes
from vllm_builder.model import Free, Model

SourceKind = Literal["auto", "git", "pypi", "path"]


class SourceRequest(Model):
    """What a person asked for, before anything was looked up."""

    version: str
    """``v0.9.2``, ``0.9.2``, ``0.6.4.post1``, ``latest``, or with git any tag, branch or commit."""
    kind: SourceKind = "auto"
    path: Path | None = None
    """A tree or a tarball; only with ``kind="path"``."""
    git_url: str = "https://github.com/vllm-project/vllm.git"
    indexes: Indexes
    offline: bool = False
    refresh: bool = False
    """Ask the network again even where the answer is remembered."""


class SourcePin(Model):
    """One source, identified by content. ``identity`` and ``release`` are part of the plan's digest."""

    kind: Free[Literal["git", "sdist", "tree"]]
    """``sdist`` is any archive, also one given by its path; ``tree`` is a folder."""
    release: str
    """PEP 440 version without a local part, e.g. ``0.9.2`` or ``0.9.3.dev17``."""
    identity: str
    """``git:<commit>``, ``sha256:<of the archive>`` or ``tree:<hash over the files>``."""
    name: Free[str]
    """The tag, branch, file or folder that it was found under."""
    location: Free[str]
    """URL (without credentials) or absolute path."""
    reason: Free[str]
    """Why this source and no other, in one line."""


class ReleaseFile(Model):
    """One file of a release as an index lists it."""

    version: str
    """Normalised PEP 440 version."""
    filename: str
    url: Free[str]
    """Without credentials; ``file://`` for a file of this machine."""
    kind: Literal["sdist", "wheel", "other"]
    sha256: str | None = None
    """None where the index names no hash."""
    size: int | None = None
    """Bytes, where the index says so."""
    yanked: bool = False
    yanked_reason: str = ""
    index: Free[str] = ""
    """The index, page or folder that lists it, without credentials."""
