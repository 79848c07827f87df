"""A change of an index from beginning to end: manifest, then pages, then what they no longer name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from pydantic import ValidationError

from vllm_builder.index import landing, layout, pages
from vllm_builder.index.manifest import Clock, Draft, Snapshot, commit, load, utc_now
from vllm_builder.index.model import Entry
from vllm_builder.index.storage.base import Storage

_SETTLED: Final = timedelta(minutes=2)
"""After which a change counts as left behind. Finishing one that is still at work harms nothing."""


def change(storage: Storage, what: Callable[[Draft], None], *, clock: Clock = utc_now) -> Snapshot:
    """Make a change and all its pages.

    Raises:
        see :func:`vllm_builder.index.manifest.commit`; where the pages cannot be written, the change
        stands and the next one (or ``index rebuild``) writes them.
    """
    finish_leftovers(storage, clock=clock)
    made = commit(storage, what, clock=clock)
    if made.entry is not None:
        _finish(storage, made.snapshot, made.journal, made.entry)
    return made.snapshot


def finish_leftovers(storage: Storage, *, older: timedelta = _SETTLED, clock: Clock = utc_now) -> int:
    """Write the pages of changes that somebody did not come to finish.

    Returns:
        how many there were.
    """
    done = 0
    for found in list(storage.list(layout.JOURNAL)):
        blob = storage.read(found.key)
        if blob is None:
            continue
        try:
            entry = Entry.model_validate_json(blob.data)
        except ValidationError:
            continue  # ``check`` tells of it
        if clock() - entry.begun < older and entry.begun <= clock():
            continue
        snapshot = load(storage)
        if snapshot is not None:
            _finish(storage, snapshot, found.key, entry)
            done += 1
    return done


def _finish(storage: Storage, snapshot: Snapshot, journal: str, entry: Entry) -> None:
    pages.write(storage, snapshot, entry.pages)
    landing.write(storage, snapshot, entry.versions)
    if entry.delete:
        kept = {
            key for _, file in snapshot.files() for key in (file.key, file.metadata_key, file.provenance_key)
        }
        storage.delete(key for key in entry.delete if key not in kept)
    storage.delete([journal])
