"""The root of a manifest is lost: make it anew from its parts, held against what the pages show."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from pydantic import ValidationError

from vllm_builder.errors import IndexDamaged
from vllm_builder.index import layout, pages
from vllm_builder.index.checking.rest import page_of
from vllm_builder.index.manifest import Clock, load, utc_now
from vllm_builder.index.model import File, Gone, Page, Root, Shard, ShardRef, to_bytes
from vllm_builder.index.storage.base import FRESH, Changed, Storage

_Where = tuple[str, str]
"""(project, variant)"""
_Shown = dict[str, dict[str, tuple[str, bool]]]
"""Channel -> file name -> SHA-256, and whether it is yanked."""


def recover_root(storage: Storage, *, clock: Clock = utc_now) -> tuple[str, ...]:
    """Put a root in place of one that is missing or cannot be read.

    Of each project and variant the state is taken that the pages show, newest first: what a publisher wrote who was ended
    before his root is no state of the index. Groups that waited are lost: publish their wheels again.

    Returns:
        what was taken, in words; nothing where the manifest can be read as it is.

    Raises:
        IndexDamaged: the pages show files that no readable part of the manifest names, or there is nothing to make it of;
            nothing was changed.
    """
    there = storage.read(layout.ROOT)
    try:
        snapshot = load(storage)
        if snapshot is not None:
            list(snapshot.shards())
            return ()
    except IndexDamaged:
        pass
    states = _states(storage)
    shown, newest_page = _pages(storage)
    chosen: dict[_Where, tuple[str, Shard]] = {}
    said: list[str] = []
    lost: list[str] = []
    for where in sorted(states.keys() | shown.keys()):
        project, variant = where
        sought = shown.get(where, {})
        options = sorted(states.get(where, ()), key=lambda one: one[1].revision, reverse=True)
        match = next((one for one in options if _shows(one[1].files) == sought), None)
        if match is None and sought:
            lost += _missing(options[0][1] if options else None, sought, f"{project} {variant}")
            continue
        if match is None:
            # Nothing is shown of it: it was never there, or it was emptied.
            said.append(f"{project} {variant}: no page shows a file of it; taken as empty")
            continue
        chosen[where] = match
        said.append(
            f"{project} {variant}: {len(match[1].files)} files, as its pages show; of revision {match[1].revision}"
        )
    if lost or not chosen:
        raise IndexDamaged(
            "The manifest cannot be made anew from its parts."
            if lost
            else "There is nothing to make a manifest of.",
            why="No part that can be read holds what the pages show; nothing was changed."
            if lost
            else f"{storage.url} holds no readable part of a manifest that any page shows.",
            next="Put manifest/ back from a backup. Without one: publish the wheels under files/ to a new index.",
            details=lost,
        )
    files = [file for _, shard in chosen.values() for file in shard.files]
    root = Root(
        revision=max(newest_page, *(shard.revision for of in states.values() for _, shard in of)) + 1,
        updated=max([clock(), *_times(files)]),
        shards=tuple(
            ShardRef(
                project=project,
                variant=variant,
                sha256=sha256,
                revision=shard.revision,
                files=len(shard.files),
            )
            for (project, variant), (sha256, shard) in sorted(chosen.items())
        ),
        gone={
            file.sha256: Gone(generation=file.generation - 1, at=clock()) for file in files if file.generation
        },
    )
    try:
        storage.replace(
            layout.ROOT,
            to_bytes(root),
            content_type="application/json",
            cache_control=FRESH,
            token=there.token if there else None,
        )
    except Changed:
        raise IndexDamaged(
            f"{layout.ROOT} was written by somebody else in this moment.",
            next="Run `vllm-builder index check` first.",
        ) from None
    return (*said, "groups that waited for a variant are lost: publish their wheels again")


def _states(storage: Storage) -> dict[_Where, list[tuple[str, Shard]]]:
    """All states that are still there and whole, by project and variant, with their SHA-256."""
    found: dict[_Where, list[tuple[str, Shard]]] = {}
    for stat in storage.list(layout.MANIFEST):
        blob = storage.read(stat.key)
        if stat.key == layout.ROOT or blob is None:
            continue
        sha256 = hashlib.sha256(blob.data).hexdigest()
        try:
            shard = Shard.model_validate_json(blob.data)
        except ValidationError:
            continue
        if stat.key == layout.shard_key(shard.project, shard.variant, sha256):
            found.setdefault((shard.project, shard.variant), []).append((sha256, shard))
    return found


def _pages(storage: Storage) -> tuple[dict[_Where, _Shown], int]:
    """What the JSON pages of projects show, and the newest revision of any page."""
    found: dict[_Where, _Shown] = {}
    newest = 0
    stats = list(storage.list(""))
    others = layout.others_in(stat.key for stat in stats)
    for stat in stats:
        if stat.key.startswith((layout.FILES, layout.MANIFEST, layout.JOURNAL, layout.JSON_ROOT, *others)):
            continue
        page = page_of(storage, stat.key)
        blob = storage.read(stat.key) if page is not None else None
        if blob is None:
            continue
        newest = max(newest, pages.revision_of(blob.data))
        if not isinstance(page, Page) or not page.project or not stat.key.endswith("/" + layout.JSON):
            continue
        try:
            files = {
                one["filename"]: (one["hashes"]["sha256"], bool(one.get("yanked", False)))
                for one in json.loads(blob.data)["files"]
            }
        except (ValueError, KeyError, TypeError):
            continue
        if files:
            found.setdefault((page.project, page.variant), {})[page.channel] = files
    return found, newest


def _shows(files: tuple[File, ...]) -> _Shown:
    """What the pages of these files show."""
    found: _Shown = {}
    for file in files:
        for channel in file.channels:
            found.setdefault(channel, {})[file.filename] = (file.sha256, file.yanked is not None)
    return found


def _missing(newest: Shard | None, sought: _Shown, what: str) -> list[str]:
    shown = {name for files in sought.values() for name in files}
    known = {file.filename for file in newest.files} if newest else set()
    without = sorted(shown - known)
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        return [f"{what}: no part names {', '.join(without[:3])}{more}"]
    return [f"{what}: the newest part has other channels or yanked files than its pages show"]


def _times(files: list[File]) -> list[datetime]:
    return [file.uploaded for file in files]
