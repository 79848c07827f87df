"""What the manifest of an index holds: the source of truth, of which all pages are made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from vllm_builder.index import layout
from vllm_builder.model import Model

SCHEMA: Final = 1


class _Utc:
    """Checked where pydantic is compiled: thousands of files are read for one that is published."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        aware = core_schema.datetime_schema(tz_constraint="aware")
        return core_schema.json_or_python_schema(
            json_schema=core_schema.datetime_schema(tz_constraint=0),
            python_schema=core_schema.no_info_after_validator_function(_utc, aware),
        )


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


Time = Annotated[datetime, _Utc()]
"""In UTC."""
# Names become parts of keys, and a manifest may have been written by anybody who may write there.
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](\.?[a-z0-9_-])*$", max_length=100)]


def _folder(value: str) -> str:
    if value in layout.RESERVED:
        raise ValueError("it cannot be a folder of an index")
    return value


Folder = Annotated[_Name, AfterValidator(_folder)]
"""A channel or a variant."""
Project = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=200)]
Version = Annotated[str, StringConstraints(pattern=r"^(\d+!)?[0-9a-z]+([.+][0-9a-z]+)*$", max_length=200)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl$", max_length=255)]
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

    filename: FileName
    project: Project
    version: Version
    sha256: Sha256
    generation: Annotated[int, Field(ge=0)] = 0
    """How often this content was deleted from the index before; see :func:`layout.wheel_key`."""
    size: int
    uploaded: Time
    """When it appeared in the index; never before a file that appeared earlier."""
    metadata_sha256: Sha256
    requires_python: str = ""
    channels: tuple[_Name, ...]
    """Sorted. ``nightly``, ``0.9.2``, a commit."""
    yanked: Yanked | None = None
    provenance_sha256: str = ""
    """Of the file beside it; empty: none."""
    facts: Facts = Facts()
    checked: Checked = Checked()
    group: str = ""

    @property
    def key(self) -> str:
        return layout.wheel_key(self.project, self.version, self.sha256, self.filename, self.generation)

    @property
    def keys(self) -> tuple[str, ...]:
        """The wheel and all that lies beside it."""
        beside = (self.provenance_key,) if self.provenance_sha256 else ()
        return (self.key, self.metadata_key, *beside)

    @property
    def metadata_key(self) -> str:
        return self.key + layout.SIDECAR

    @property
    def provenance_key(self) -> str:
        return self.key + layout.PROVENANCE


def _free_channels(files: tuple[File, ...]) -> tuple[File, ...]:
    """All at once: a check of each would cost more than all the rest of reading."""
    for channel in {channel for channels in {file.channels for file in files} for channel in channels}:
        _folder(channel)
    return files


class Shard(Model):
    """All files of one project in one variant, by file name."""

    schema_version: int = SCHEMA
    project: Project
    variant: Folder
    revision: int
    files: Annotated[tuple[File, ...], AfterValidator(_free_channels)] = ()


class ShardRef(Model):
    project: Project
    variant: Folder
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

    variant: Folder
    file: Annotated[File, AfterValidator(lambda file: _free_channels((file,))[0])]


class Group(Model):
    """Files that appear together or not at all: all variants of one nightly, published from several machines."""

    expects: tuple[str, ...]
    """Variants that must be there."""
    begun: Time
    staged: tuple[Staged, ...] = ()
    present: tuple[str, ...] = ()
    """Variants of which the group's wheel is in the index already."""


class Superseded(Model):
    """A shard that a change replaced; those who read an older root still want it for a while."""

    key: str
    at: Time


class Gone(Model):
    """Content that was deleted, or is being deleted: up to that generation, nothing may be entered under its keys."""

    generation: int
    at: Time


class Root(Model):
    """The one value that is replaced by compare-and-swap."""

    schema_version: int = SCHEMA
    revision: int = 0
    """Grows by one with each change."""
    updated: Time
    """Never goes backwards, whatever a publisher's clock says."""
    shards: tuple[ShardRef, ...] = ()
    groups: Mapping[str, Group] = {}
    gone: Mapping[str, Gone] = {}
    """By SHA-256."""
    superseded: tuple[Superseded, ...] = ()
    """Shards that may still be read, oldest first."""

    def generation(self, sha256: str) -> int:
        """The one under which content may be entered."""
        return self.gone[sha256].generation + 1 if sha256 in self.gone else 0

    def is_gone(self, key: str) -> bool:
        """Whether a key of a wheel, or beside one, may be deleted: nobody enters it any more."""
        content = layout.content_of(key)
        return content is not None and content[1] < self.generation(content[0])


class Page(Model):
    """A page that has to be made anew; ``project`` empty: the list of projects."""

    channel: Folder
    variant: Folder
    project: Project | Literal[""] = ""


class Entry(Model):
    """A change whose pages may not be written yet (``journal/``)."""

    begun: Time
    base: int = -1
    """The revision that was to be replaced. As long as the index has it, this change may still be made; later, it
    either was made or never will be."""
    pages: tuple[Page, ...]
    versions: tuple[str, ...] = ()
    """``PROJECT VERSION`` whose part of the landing page has to be made anew."""
    delete: tuple[str, ...] = ()
    """Keys to be deleted once the pages no longer name them."""


class Published(Model):
    """What became of one wheel: ``published``, ``unchanged`` (it was there), or ``staged`` (its group is not whole)."""

    filename: str
    project: str
    version: str
    variant: str
    channels: tuple[str, ...]
    sha256: str
    size: int
    outcome: str
    waits_for: tuple[str, ...] = ()
    """Variants that the group still lacks."""


def to_bytes(value: Model) -> bytes:
    """Compact, the same for the same value."""
    return (value.model_dump_json() + "\n").encode()
