"""What the manifest of an index holds: the source of truth, of which all pages are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

from vllm_builder.index import layout
from vllm_builder.model import Model

SCHEMA: Final = 1


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time of an index has a time zone")
    return value.astimezone(UTC)


Time = Annotated[datetime, AfterValidator(_utc)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Facts(Model):
    """What a person chooses by; from the build record, as far as there is one."""

    release: str = ""
    commit: str = ""
    device: str = ""
    archs: tuple[str, ...] = ()
    """``("10.0", "9.0a")``."""
    cuda: str = ""
    """``13.0``."""
    torch: str = ""
    """``2.11.0+cu130``."""
    digest: str = ""
    """Of the plan; empty where the wheel is not ours."""
    summary: str = ""


class Checked(Model):
    """How the wheel was judged before it was let in."""

    result: str = "good"
    """``good``, ``warnings`` or ``not verified``."""
    reason: str = ""
    """Why it was not verified, in the publisher's words."""
    warnings: int = 0


class Yanked(Model):
    """A file that is offered no longer, except to those who pin it exactly (PEP 592)."""

    reason: str
    at: Time
    delete_after: Time | None = None
    """From then on ``prune`` may delete it; None: never."""


class File(Model):
    """One wheel. ``size`` in bytes; ``version`` with its local part; ``project`` normalised (PEP 503)."""

    filename: str
    project: str
    version: str
    sha256: Sha256
    size: int
    uploaded: Time
    metadata_sha256: Sha256
    requires_python: str = ""
    channels: tuple[str, ...]
    """Sorted. ``nightly``, ``0.9.2``, a commit."""
    yanked: Yanked | None = None
    provenance_sha256: str = ""
    """Of the file beside it; empty: none."""
    facts: Facts = Facts()
    checked: Checked = Checked()
    group: str = ""

    @property
    def key(self) -> str:
        return layout.wheel_key(self.project, self.version, self.sha256, self.filename)

    @property
    def metadata_key(self) -> str:
        return self.key + layout.SIDECAR

    @property
    def provenance_key(self) -> str:
        return self.key + layout.PROVENANCE


class Shard(Model):
    """All files of one project in one variant, by file name."""

    schema_version: int = SCHEMA
    project: str
    variant: str
    revision: int
    files: tuple[File, ...] = ()


class ShardRef(Model):
    project: str
    variant: str
    sha256: Sha256
    """Of the shard's bytes, and its name."""
    revision: int
    """The revision of the index in which it was written."""
    files: int

    @property
    def key(self) -> str:
        return layout.shard_key(self.project, self.variant, self.sha256)


class Staged(Model):
    """A file of a group that is not whole yet."""

    variant: str
    file: File


class Group(Model):
    """Files that appear together or not at all: all variants of one nightly, published from several machines."""

    expects: tuple[str, ...]
    """Variants that must be there."""
    begun: Time
    staged: tuple[Staged, ...] = ()


class Root(Model):
    """The one value that is replaced by compare-and-swap."""

    schema_version: int = SCHEMA
    revision: int = 0
    """Grows by one with each change."""
    updated: Time
    """Never goes backwards, whatever a publisher's clock says."""
    shards: tuple[ShardRef, ...] = ()
    groups: Mapping[str, Group] = {}


class Page(Model):
    """A page that has to be made anew; ``project`` empty: the list of projects."""

    channel: str
    variant: str
    project: str = ""


class Entry(Model):
    """A change whose pages may not be written yet (``journal/``)."""

    begun: Time
    pages: tuple[Page, ...]
    versions: tuple[str, ...] = ()
    """``PROJECT VERSION`` whose part of the landing page has to be made anew."""
    delete: tuple[str, ...] = ()
    """Keys to be deleted once the pages no longer name them."""


def to_bytes(value: Model) -> bytes:
    """Compact, sorted, the same for the same value."""
    dumped = value.model_dump(mode="json", exclude_defaults=False)
    return (json.dumps(dumped, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
