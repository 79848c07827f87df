"""Put wheels into an index: content first, then the manifest, pages last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vllm_builder.errors import PublishRefused
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.index import grouping, layout
from vllm_builder.index.candidates import Candidate, digest_of
from vllm_builder.index.listing import named_channels, new_channel
from vllm_builder.index.manifest import Clock, Draft, Snapshot, load, utc_now
from vllm_builder.index.model import File, Published, Staged
from vllm_builder.index.storage.base import IMMUTABLE, Altered, Exists, Storage
from vllm_builder.index.transaction import change

_OCTETS: Final = "application/octet-stream"
SIDECAR_TYPE: Final = "text/plain; charset=utf-8"
_JSON_LINES: Final = "application/jsonl"
_Outcome = dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]
"""By file name: what became of it, the variants that its group waits for, and its channels."""


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
    outcome: _Outcome = {}
    uploaded: dict[str, int] = {}
    proofs: dict[str, str] = {}

    def add(draft: Draft) -> None:
        outcome.clear()
        new = [one for one in candidates if not _settled(draft, one, outcome, proofs[one.sha256])]
        if any(draft.generation(one.sha256) != uploaded[one.sha256] for one in new):
            raise _Deleted
        files = [Staged(variant=one.variant, file=_file(one, draft, proofs[one.sha256])) for one in new]
        missing: tuple[str, ...] = ()
        if group:
            missing = grouping.stage(draft, group, expects, files, {one.variant for one in candidates})
        else:
            grouping.enter(draft, [grouping.leave(draft, one) for one in files])
        outcome.update(
            {one.filename: ("staged" if missing else "published", missing, one.channels) for one in new}
        )

    there = load(storage)
    for message in sorted(_new_channels(there, candidates)):
        emit(Note(stage="publish", message=message, level="warning"))
    while True:
        for one in candidates:
            generation = there.root.generation(one.sha256) if there is not None else 0
            if storage.stat(one.key(generation)) is None:
                emit(Note(stage="publish", message=f"Uploading {one.filename} ({one.size / 1e6:.1f} MB)"))
            proofs[one.sha256] = _upload(storage, one, generation)
            uploaded[one.sha256] = generation
        try:
            change(storage, add, clock=clock)
        except _Deleted:
            there = load(storage)
            continue
        break
    return tuple(
        Published(
            filename=one.filename,
            project=one.project,
            version=one.version,
            variant=one.variant,
            channels=outcome[one.filename][2],
            sha256=one.sha256,
            size=one.size,
            outcome=outcome[one.filename][0],
            waits_for=outcome[one.filename][1],
        )
        for one in candidates
    )


def _new_channels(there: Snapshot | None, candidates: Sequence[Candidate]) -> set[str]:
    """What to say of channels that may be misspelt."""
    chosen = {name for one in candidates for name in named_channels(one)}
    if there is None or chosen <= {"nightly", "release"}:
        return {said for name in chosen if (said := new_channel(name, set()))}
    # Mostly there are wheels of the same kind in it; else everything is read.
    own = {(one.project, one.variant) for one in candidates}
    known = {name for shard in own for file in there.shard(*shard).files for name in file.channels}
    if chosen <= known:
        return set()
    known = {name for _, file in there.files() for name in named_channels(file)}
    return {said for name in chosen if (said := new_channel(name, known))}


class _Deleted(Exception):
    """Between upload and manifest, ``prune`` has begun to delete what was uploaded (or had been there before)."""


def present(storage: Storage, candidates: Sequence[Candidate]) -> frozenset[str]:
    """File names of those that the index has already, byte for byte. Reads only.

    Raises:
        PublishRefused: as :func:`publish` would, before anything is uploaded.
        IndexDamaged, StorageFailed: the manifest cannot be read.
    """
    snapshot = load(storage)
    if snapshot is None:
        return frozenset()
    draft = Draft(snapshot, snapshot.root.updated)
    return frozenset(one.filename for one in candidates if _settled(draft, one, {}))


def _upload(storage: Storage, one: Candidate, generation: int) -> str:
    """Returns:
    the SHA-256 of the provenance beside it, if any: the first one stays.
    """
    key = one.key(generation)
    # What lies under the key has that content: the key holds its hash, and a storage writes whole objects only.
    with suppress(Exists):
        try:
            storage.create(key, one.path, content_type=_OCTETS, cache_control=IMMUTABLE, sha256=one.sha256)
        except Altered:
            raise PublishRefused(
                f"{one.path} changed while it was published.",
                why="Something still writes it; nothing of it was published.",
                next="Publish it again once it is complete.",
            ) from None
    with suppress(Exists):
        storage.create(key + layout.SIDECAR, one.sidecar, content_type=SIDECAR_TYPE, cache_control=IMMUTABLE)
    if not one.provenance:
        return ""
    beside = key + layout.PROVENANCE
    try:
        storage.create(beside, one.provenance, content_type=_JSON_LINES, cache_control=IMMUTABLE)
    except Exists:
        # The same wheel may have been built twice, and each build has its own statement.
        there = storage.read(beside)
        return digest_of(there.data) if there is not None else ""
    return digest_of(one.provenance)


def _settled(draft: Draft, one: Candidate, outcome: _Outcome, provenance: str = "") -> bool:
    """Whether it is in the index as it should be. A file that is there gets new channels, and a first provenance."""
    found = draft.find(one.project, one.filename)
    if found is None:
        grouping.refuse_other(draft, one)
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
    new: dict[str, object] = {}
    channels = tuple(sorted({*file.channels, *one.channels}))
    if channels != file.channels:
        new["channels"] = channels
    if provenance and not file.provenance_sha256:
        new["provenance_sha256"] = provenance
    outcome[one.filename] = ("published" if new else "unchanged", (), channels)
    if new:
        draft.files(one.project, variant)[one.filename] = file.model_copy(update=new)
    return True


def _file(one: Candidate, draft: Draft, provenance: str) -> File:
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
        provenance_sha256=provenance,
        facts=one.facts,
        checked=one.checked,
        generation=draft.generation(one.sha256),
    )
