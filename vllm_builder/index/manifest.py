"""Read the manifest, and change it by compare-and-swap.

A change is a function over a :class:`Draft`. It is made again from what is there whenever somebody else was first, so it
must do nothing but change the draft. All that it changes appears in one moment: in the one write of ``manifest/root.json``.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import Final, TypeVar

from pydantic import ValidationError

from vllm_builder.errors import Busy, IndexDamaged, InternalError
from vllm_builder.index import layout
from vllm_builder.index.journal import Note
from vllm_builder.index.model import (
    SCHEMA,
    Entry,
    File,
    Gone,
    Group,
    Page,
    Root,
    Shard,
    ShardRef,
    Superseded,
    to_bytes,
)
from vllm_builder.index.storage.base import FRESH, IMMUTABLE, Changed, Exists, Storage, Token

Clock = Callable[[], datetime]
_TRIES: Final = 200
_READERS: Final = timedelta(hours=1)
"""How long a shard stays after it was replaced."""
_SUPERSEDED: Final = 256
"""How many of these stay at most."""
_JSON: Final = "application/json"
T = TypeVar("T", Root, Shard)


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change does to one shard. ``touched``: both states of each file that differs."""

    before: tuple[File, ...]
    after: tuple[File, ...]
    touched: tuple[File, ...]


_Changes = dict[tuple[str, str], Difference]
"""(project, variant) -> what is changed."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Snapshot:
    """The manifest as it was at one revision. Shards are read when they are asked for."""

    def __init__(self, storage: Storage, root: Root, token: Token | None) -> None:
        self.storage = storage
        self.root = root
        self.token = token
        self._shards: dict[tuple[str, str], Shard] = {}
        self._unread: dict[tuple[str, str], bytes] = {}
        self._refs = {(ref.project, ref.variant): ref for ref in root.shards}

    def shard(self, project: str, variant: str) -> Shard:
        """An empty one where there is none.

        Raises:
            IndexDamaged: it is missing, or not what the root names.
        """
        if (found := self._shards.get((project, variant))) is not None:
            return found
        ref = self._refs.get((project, variant))
        if ref is None:
            made = Shard(project=project, variant=variant, revision=0)
        else:
            data = self._unread.pop((project, variant), None) or _read_shard(self.storage, ref)
            made = _parsed(Shard, data, ref.key, self.storage)
        self._shards[project, variant] = made
        return made

    def after(self, root: Root, token: Token, shards: Iterable[Shard]) -> Snapshot:
        """The manifest that a change made of this one, without reading it again."""
        made = Snapshot(self.storage, root, token)
        made._shards = {**self._shards, **{(shard.project, shard.variant): shard for shard in shards}}
        return made

    def mentions(self, project: str, variant: str, filename: str) -> bool:
        """Whether a shard may hold a file of that name. Where not, it need not be read through: it may hold thousands."""
        where = (project, variant)
        if where in self._shards or where not in self._refs:
            return where in self._shards
        if where not in self._unread:
            self._unread[where] = _read_shard(self.storage, self._refs[where])
        return f'"{filename}"'.encode() in self._unread[where]

    def shards(self) -> Iterator[Shard]:
        for ref in self.root.shards:
            yield self.shard(ref.project, ref.variant)

    def files(self) -> Iterator[tuple[str, File]]:
        """Variant and file, of all that is there."""
        for shard in self.shards():
            for file in shard.files:
                yield shard.variant, file


class Draft:
    """What a change works on: files by (project, variant) and file name, and groups."""

    def __init__(self, snapshot: Snapshot, at: datetime) -> None:
        self.snapshot = snapshot
        self.at = at
        """The moment of the change; never before the last one, whatever the clock says."""
        self.groups: dict[str, Group] = dict(snapshot.root.groups)
        self.gone: dict[str, Gone] = dict(snapshot.root.gone)
        self.delete: list[str] = []
        """Keys to be deleted once no page names them; those of wheels by :meth:`condemn`."""
        self._files: dict[tuple[str, str], dict[str, File]] = {}

    def files(self, project: str, variant: str) -> dict[str, File]:
        """To be read and changed."""
        where = (project, variant)
        if where not in self._files:
            self._files[where] = {file.filename: file for file in self.snapshot.shard(*where).files}
        return self._files[where]

    def everywhere(self) -> Iterator[tuple[str, dict[str, File]]]:
        """Variant and its files by name, of all that is there; to be changed as well."""
        for ref in self.snapshot.root.shards:
            yield ref.variant, self.files(ref.project, ref.variant)

    def find(self, project: str, filename: str) -> tuple[str, File] | None:
        """Variant and file of that name."""
        for ref in self.snapshot.root.shards:
            where = (project, ref.variant)
            if ref.project != project or (
                where not in self._files and not self.snapshot.mentions(*where, filename)
            ):
                continue
            if (found := self.files(*where).get(filename)) is not None:
                return ref.variant, found
        return None

    def generation(self, sha256: str) -> int:
        """The one under which content may be entered."""
        return self.gone[sha256].generation + 1 if sha256 in self.gone else 0

    def condemn(self, keys: Iterable[str]) -> None:
        """Delete wheels, or what lies beside them, that no file of this draft names.

        From this change on nobody enters content under these keys: a publisher who has found it there uploads it once more
        under another key. So the deletion may come at any later time.
        """
        for key in keys:
            content = layout.content_of(key)
            if content is not None and content[1] >= self.generation(content[0]):
                self.gone[content[0]] = Gone(generation=content[1], at=self.at)
            self.delete.append(key)

    def changed(self) -> _Changes:
        """(project, variant) -> the files before and after, where they differ."""
        found = {}
        for where, files in self._files.items():
            before = self.snapshot.shard(*where).files
            after = tuple(files[name] for name in sorted(files))
            if touched := tuple(_touched(before, files)):
                found[where] = Difference(before, after, touched)
        return found


@dataclass(frozen=True, slots=True)
class Commit:
    """``entry`` is None where nothing had to be changed."""

    snapshot: Snapshot
    journal: str
    entry: Entry | None


def load(storage: Storage) -> Snapshot | None:
    """The manifest as it is; None where there is no index yet.

    Raises:
        IndexDamaged: it cannot be read, or a newer vllm-builder wrote it.
    """
    blob = storage.read(layout.ROOT)
    if blob is None:
        return None
    return Snapshot(storage, _parsed(Root, blob.data, layout.ROOT, storage), blob.token)


def commit(storage: Storage, change: Callable[[Draft], None], *, clock: Clock = utc_now) -> Commit:
    """Make a change, whole or not at all.

    The journal is written first: who ends here leaves word of the pages that are to be made anew.

    Raises:
        IndexDamaged: see :func:`load`.
        Busy: others were first too often.
        whatever ``change`` raises; then nothing is changed.
    """
    note = Note(storage)
    for attempt in range(_TRIES):
        now = clock()
        snapshot = load(storage) or Snapshot(storage, Root(updated=now), None)
        note.clear_shards(snapshot.root)
        draft = Draft(snapshot, max(now, snapshot.root.updated))
        change(draft)
        changed = draft.changed()
        doomed = tuple(dict.fromkeys(draft.delete))
        same = draft.groups == dict(snapshot.root.groups) and draft.gone == dict(snapshot.root.gone)
        if not changed and same and not doomed:
            # An earlier try may have been made, and only its answer lost.
            return Commit(snapshot, note.key if note.entry else "", note.entry)
        _spare(draft)
        root, shards = _next(snapshot, draft, changed)
        old = {one.key for one in snapshot.root.superseded} - {one.key for one in root.superseded}
        note.write(
            draft.at, snapshot.root.revision, _pages(changed), _versions(changed), (*doomed, *sorted(old))
        )
        for key, (_, data) in shards.items():
            note.shards.append(key)
            with suppress(Exists):
                storage.create(key, data, content_type=_JSON, cache_control=IMMUTABLE)
        try:
            token = storage.replace(
                layout.ROOT, to_bytes(root), content_type=_JSON, cache_control=FRESH, token=snapshot.token
            )
        except Changed:
            time.sleep(random.uniform(0, min(0.02 * (attempt + 1), 0.5)))
            continue
        return Commit(
            snapshot.after(root, token, (shard for shard, _ in shards.values())), note.key, note.entry
        )
    raise Busy(
        f"The index {storage.url} changed {_TRIES} times while it was to be changed.",
        why="Very many publish at once.",
        next="Run the same command again: what was uploaded stays.",
    )


def _spare(draft: Draft) -> None:
    """Whatever a change condemned: nothing goes that is still named."""
    if draft.gone == dict(draft.snapshot.root.gone):
        return
    staged = (member.file for group in draft.groups.values() for member in group.staged)
    for file in (*staged, *(file for _, files in draft.everywhere() for file in files.values())):
        if file.generation < draft.generation(file.sha256):
            raise InternalError(f"{file.filename} was to be deleted, and the index still offers it.")


def _next(snapshot: Snapshot, draft: Draft, changed: _Changes) -> tuple[Root, dict[str, tuple[Shard, bytes]]]:
    """The new root, and the shards that it names and that are to be written first."""
    revision = snapshot.root.revision + 1
    refs = {(ref.project, ref.variant): ref for ref in snapshot.root.shards}
    superseded = [one for one in snapshot.root.superseded if draft.at - one.at < _READERS][-_SUPERSEDED:]
    shards = {}
    for (project, variant), difference in changed.items():
        made = Shard(project=project, variant=variant, revision=revision, files=difference.after)
        data = to_bytes(made)
        digest = hashlib.sha256(data).hexdigest()
        ref = ShardRef(
            project=project, variant=variant, sha256=digest, revision=revision, files=len(made.files)
        )
        if (old := refs.get((project, variant))) is not None:
            superseded.append(Superseded(key=old.key, at=draft.at))
        refs[project, variant] = ref
        shards[ref.key] = made, data
    root = Root(
        revision=revision,
        updated=draft.at,
        shards=tuple(refs[where] for where in sorted(refs)),
        groups=draft.groups,
        gone=draft.gone,
        superseded=tuple(superseded),
    )
    return root, shards


def _pages(changed: _Changes) -> tuple[Page, ...]:
    """The pages that name a file that was changed, before or after; and the list of projects where one comes or goes."""
    pages: set[tuple[str, str, str]] = set()
    for (project, variant), one in changed.items():
        touched = {channel for file in one.touched for channel in file.channels}
        pages |= {(channel, variant, project) for channel in touched}
        was = {channel for channels in {file.channels for file in one.before} for channel in channels}
        now = {channel for channels in {file.channels for file in one.after} for channel in channels}
        pages |= {(channel, variant, "") for channel in was ^ now}
    return tuple(Page(channel=c, variant=v, project=p) for c, v, p in sorted(pages))


def _versions(changed: _Changes) -> tuple[str, ...]:
    return tuple(
        sorted({f"{file.project} {file.version}" for one in changed.values() for file in one.touched})
    )


def _touched(before: tuple[File, ...], new: dict[str, File]) -> Iterator[File]:
    """Both states of each file that differs. What a change left alone is the same object: thousands of them cost little."""
    old = {file.filename: file for file in before}
    for name in old.keys() | new.keys():
        was, now = old.get(name), new.get(name)
        if was is not now and was != now:
            yield from (file for file in (was, now) if file is not None)


def _read_shard(storage: Storage, ref: ShardRef) -> bytes:
    blob = storage.read(ref.key)
    if blob is None:
        raise _damaged(storage, ref.key, "It is missing.")
    if hashlib.sha256(blob.data).hexdigest() != ref.sha256:
        raise _damaged(storage, ref.key, "Its content is not the one that it is named by.")
    return blob.data


def _parsed(kind: type[T], data: bytes, key: str, storage: Storage) -> T:
    try:
        found = kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        said = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise _damaged(storage, key, f"It is no manifest: {said}.") from error
    if found.schema_version > SCHEMA:
        raise IndexDamaged(
            f"{key} of the index has the format {found.schema_version}, and this vllm-builder knows {SCHEMA}.",
            next="Upgrade vllm-builder.",
        )
    return found


def _damaged(storage: Storage, key: str, why: str) -> IndexDamaged:
    return IndexDamaged(
        f"{key} of the index cannot be used.",
        why=why,
        next="Put that file back from a backup; without one: `vllm-builder index rebuild --from-shards "
        f"--to {quote(storage.url)}`. What is served stays.",
    )
