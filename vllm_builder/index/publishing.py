"""Put wheels into an index: content first, then the manifest, pages last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vllm_builder.errors import PublishRefused
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.index.candidates import Candidate, digest_of
from vllm_builder.index.manifest import Clock, Draft, utc_now
from vllm_builder.index.model import File, Group, Staged
from vllm_builder.index.storage.base import IMMUTABLE, Exists, Storage
from vllm_builder.index.transaction import change
from vllm_builder.model import Model

_OCTETS: Final = "application/octet-stream"
_TEXT: Final = "text/plain; charset=utf-8"
_JSON_LINES: Final = "application/jsonl"


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


def publish(
    storage: Storage,
    candidates: Sequence[Candidate],
    *,
    group: str = "",
    expects: Sequence[str] = (),
    clock: Clock = utc_now,
    emit: Emit = ignore,
) -> tuple[Published, ...]:
    """Publish wheels: all of them appear in one moment, or none.

    Args:
        group: a name that several publishers share; their wheels appear when all of ``expects`` is there.
        expects: the variants of the group.

    Raises:
        PublishRefused: another content has the file name of one of them; nothing is changed.
        StorageFailed, NotWritable, NoSpace: what was uploaded stays, and the same command goes on from there.
        Busy, IndexDamaged: see :mod:`vllm_builder.index.manifest`.
    """
    for one in candidates:
        emit(Note(stage="publish", message=f"Uploading {one.filename} ({one.size / 1e6:.1f} MB)"))
        _upload(storage, one)
    outcome: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(draft: Draft) -> None:
        outcome.clear()
        new = [one for one in candidates if not _settled(draft, one, outcome)]
        if not new:
            return
        if not group:
            for one in new:
                _enter(draft, one.variant, _file(one, draft))
                outcome[one.filename] = ("published", ())
            return
        _stage(draft, group, expects, new, outcome)

    change(storage, add, clock=clock)
    return tuple(
        Published(
            filename=one.filename,
            project=one.project,
            version=one.version,
            variant=one.variant,
            channels=one.channels,
            sha256=one.sha256,
            size=one.size,
            outcome=outcome[one.filename][0],
            waits_for=outcome[one.filename][1],
        )
        for one in candidates
    )


def _upload(storage: Storage, one: Candidate) -> None:
    # What lies under the key has that content: the key holds its hash, and a storage writes whole objects only.
    with suppress(Exists):
        storage.create(one.key, one.path, content_type=_OCTETS, cache_control=IMMUTABLE)
    with suppress(Exists):
        storage.create(one.key + ".metadata", one.sidecar, content_type=_TEXT, cache_control=IMMUTABLE)
    if one.provenance:
        with suppress(Exists):
            storage.create(
                one.key + ".intoto.jsonl",
                one.provenance,
                content_type=_JSON_LINES,
                cache_control=IMMUTABLE,
            )


def _settled(draft: Draft, one: Candidate, outcome: dict[str, tuple[str, tuple[str, ...]]]) -> bool:
    """Whether it is in the index as it should be. New channels are added to a file that is there."""
    found = draft.find(one.project, one.filename)
    if found is None:
        return False
    variant, file = found
    if file.sha256 != one.sha256:
        raise PublishRefused(
            f"The index has another file of the name {one.filename}.",
            why=f"There it is sha256 {file.sha256}, published {file.uploaded:%Y-%m-%d %H:%M} UTC; here it is {one.sha256}. "
            "A published file never changes: locks of those who use it would break.",
            next="Give the new one another version, or a build tag (`wheel tags --build 1 WHEEL`).",
        )
    if variant != one.variant:
        raise PublishRefused(
            f"{one.filename} is in the index as variant {variant}, not {one.variant}.",
            why="A wheel belongs to one variant: pip would mix them otherwise.",
            next=f"Publish it with --variant {variant}.",
        )
    channels = tuple(sorted({*file.channels, *one.channels}))
    outcome[one.filename] = ("unchanged", ())
    if channels != file.channels:
        draft.files(one.project, variant)[one.filename] = file.model_copy(update={"channels": channels})
        outcome[one.filename] = ("published", ())
    return True


def _enter(draft: Draft, variant: str, file: File) -> None:
    draft.files(file.project, variant)[file.filename] = file


def _stage(
    draft: Draft,
    name: str,
    expects: Sequence[str],
    new: Sequence[Candidate],
    outcome: dict[str, tuple[str, tuple[str, ...]]],
) -> None:
    begun = draft.groups.get(name)
    wanted = tuple(dict.fromkeys([*(begun.expects if begun else ()), *expects]))
    staged = {member.file.filename: member for member in (begun.staged if begun else ())}
    for one in new:
        there = staged.get(one.filename)
        if there is not None and there.file.sha256 != one.sha256:
            raise PublishRefused(
                f"The group {name} has another file of the name {one.filename}.",
                why=f"There it is sha256 {there.file.sha256}, here {one.sha256}.",
                next="Use a new name for the group, or publish the same file.",
            )
        if there is None:
            file = _file(one, draft).model_copy(update={"group": name})
            staged[one.filename] = Staged(variant=one.variant, file=file)
    missing = tuple(variant for variant in wanted if variant not in {m.variant for m in staged.values()})
    if missing:
        draft.groups[name] = Group(
            expects=wanted, begun=begun.begun if begun else draft.at, staged=tuple(staged.values())
        )
        outcome.update({one.filename: ("staged", missing) for one in new})
        return
    draft.groups.pop(name, None)
    for member in staged.values():
        _enter(draft, member.variant, member.file)
    outcome.update({one.filename: ("published", ()) for one in new})


def _file(one: Candidate, draft: Draft) -> File:
    return File(
        filename=one.filename,
        project=one.project,
        version=one.version,
        sha256=one.sha256,
        size=one.size,
        uploaded=draft.at,
        metadata_sha256=digest_of(one.sidecar),
        requires_python=one.requires_python,
        channels=one.channels,
        provenance_sha256=digest_of(one.provenance) if one.provenance else "",
        facts=one.facts,
        checked=one.checked,
    )
