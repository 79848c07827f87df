"""A change of an index from beginning to end: manifest, then pages, then what they no longer name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final

from pydantic import ValidationError

from vllm_builder.index import landing, layout, pages
from vllm_builder.index.manifest import Clock, Draft, Snapshot, commit, load, utc_now
from vllm_builder.index.model import Entry
from vllm_builder.index.storage.base import Storage

_SETTLED: Final = timedelta(minutes=2)
"""After which a change counts as left behind. Finishing one that is still at work costs time and harms nothing."""
_NOW: Final = timedelta(0)


def change(storage: Storage, what: Callable[[Draft], None], *, clock: Clock = utc_now) -> Snapshot:
    """Make a change and all its pages.

    Raises:
        see :func:`vllm_builder.index.manifest.commit`; where the pages cannot be written, the change
        stands, and the same command again (or a later change, or ``index rebuild``) writes them.
    """
    finish_leftovers(storage, clock=clock)
    made = commit(storage, what, clock=clock)
    if made.entry is None:
        # Perhaps this is the second time, and the first one did not come to its pages.
        finish_leftovers(storage, older=_NOW, clock=clock)
    else:
        _finish(storage, made.snapshot, {made.journal: made.entry})
    return made.snapshot


def finish_leftovers(storage: Storage, *, older: timedelta = _SETTLED, clock: Clock = utc_now) -> int:
    """Write the pages of changes that somebody did not come to finish.

    Returns:
        how many there were.
    """
    now = clock().timestamp()
    # A time that is far from now in either direction: the clocks may differ, and a journal must not wait for ever.
    keys = [
        one.key for one in storage.list(layout.JOURNAL) if abs(now - one.modified) >= older.total_seconds()
    ]
    if not keys:
        return 0
    found = _read(storage, keys)
    snapshot = load(storage)
    if snapshot is None:
        return 0
    # A change whose base is the present revision may be made in the next moment: its journal must not go before.
    found = {key: entry for key, entry in found.items() if entry.base < snapshot.root.revision}
    if found:
        _finish(storage, snapshot, found)
    return len(found)


def _read(storage: Storage, keys: list[str]) -> dict[str, Entry]:
    found = {}
    for key in keys:
        blob = storage.read(key)
        if blob is None:
            continue
        try:
            found[key] = Entry.model_validate_json(blob.data)
        except ValidationError:
            continue  # ``check`` tells of it
    return found


def _finish(storage: Storage, snapshot: Snapshot, entries: Mapping[str, Entry]) -> None:
    _write_pages(storage, snapshot, entries)
    doomed = tuple(dict.fromkeys(key for entry in entries.values() for key in entry.delete))
    if any(key.startswith(layout.FILES) for key in doomed):
        # A change before this one that was left behind may have taken a file off a page that still names it.
        others = _read(storage, [one.key for one in storage.list(layout.JOURNAL) if one.key not in entries])
        _write_pages(
            storage,
            snapshot,
            {key: entry for key, entry in others.items() if entry.base < snapshot.root.revision},
        )
    storage.delete(_unnamed(snapshot, doomed))
    storage.delete(entries)


def _write_pages(storage: Storage, snapshot: Snapshot, entries: Mapping[str, Entry]) -> None:
    made = tuple(dict.fromkeys(page for entry in entries.values() for page in entry.pages))
    pages.write(storage, snapshot, made)
    landing.write(
        storage, snapshot, dict.fromkeys(one for entry in entries.values() for one in entry.versions), made
    )


def _unnamed(snapshot: Snapshot, doomed: Iterable[str]) -> Iterator[str]:
    """What of a change may be deleted, whoever does it and however late.

    The change may never have come about (its publisher was ended between journal and root), so the entry alone is no
    leave to delete: the root has to say that a wheel is gone, and then nobody enters it again.
    """
    root = snapshot.root
    shards = {ref.key for ref in root.shards}
    for key in doomed:
        if root.is_gone(key) or (key.startswith(layout.MANIFEST) and key not in {layout.ROOT, *shards}):
            yield key
