"""Write everything that can be made from the manifest anew."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from shlex import quote

from vllm_builder.errors import IndexDamaged, WheelError
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.index import landing, layout, pages
from vllm_builder.index.checking.rest import page_of
from vllm_builder.index.checking.walk import journal, pages_of, tell
from vllm_builder.index.manifest import Clock, Snapshot, load, utc_now
from vllm_builder.index.model import File, Page, Root, to_bytes
from vllm_builder.index.publishing import SIDECAR_TYPE
from vllm_builder.index.storage.base import FRESH, IMMUTABLE, Changed, Storage
from vllm_builder.index.transaction import finish_leftovers
from vllm_builder.model import Model


class Rebuilt(Model):
    """What was done."""

    revision: int
    pages: int
    written: int
    """Objects: a page is an HTML and a JSON, and more on some object stores."""
    finished: int
    """Changes that somebody had left undone."""
    sidecars: tuple[str, ...] = ()
    """Keys of metadata that was put back."""
    removed: tuple[str, ...] = ()
    """Keys of pages that the manifest does not know, and of journal entries that cannot be read."""
    recovered: tuple[str, ...] = ()
    """With ``from_shards``: which states were taken, in words."""


def rebuild(
    storage: Storage,
    *,
    from_shards: bool = False,
    jobs: int = 8,
    clock: Clock = utc_now,
    emit: Emit = ignore,
) -> Rebuilt:
    """Write all pages from the manifest, whatever is there; others may publish meanwhile.

    Args:
        from_shards: where the root of the manifest is missing or damaged, make it from the newest of its parts first.

    Raises:
        IndexDamaged: the manifest cannot be read; with ``from_shards``: what the pages show is in none of its parts.
        StorageFailed and its like: see :class:`~vllm_builder.index.storage.base.Storage`.
    """
    started = time.monotonic()
    emit(StageStarted(stage="index", title=f"Rebuild {storage.url}"))
    recovered: tuple[str, ...] = ()
    if from_shards:
        from vllm_builder.index.recovering import recover_root

        recovered = recover_root(storage, clock=clock)
    known = _pages_there(storage)
    snapshot = _next_revision(storage, max((revision for _, revision in known.values()), default=0))
    # After the new revision: of what was begun before it, it is known now whether it was made.
    finished = finish_leftovers(storage, clock=clock)
    broken = [stat.key for stat, entry in journal(storage) if entry is None]
    wanted = sorted(pages_of(snapshot.files()), key=lambda one: (one.channel, one.variant, one.project))
    emit(Note(stage="index", message=f"Writing {len(wanted)} pages"))
    sidecars = tuple(
        key for _, file in snapshot.files() if (key := _sidecar(storage, file, emit)) is not None
    )
    expected: set[str] = set()

    def put(objects: Iterable[tuple[str, bytes, str]]) -> int:
        count = 0
        for key, data, kind in objects:
            expected.add(key)
            count += pages.put(storage, key, data, kind, snapshot.root.revision)
        return count

    written = put(landing.objects(storage, snapshot))
    # Most of the time goes into waiting for a disk or a server.
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        made = pool.map(lambda page: put(pages.objects(storage, snapshot, page)), wanted)
        for number, count in enumerate(made, 1):
            written += count
            tell(emit, "pages", number, len(wanted))
    removed = [key for key in known if key not in expected]
    if any(entry is not None for _, entry in journal(storage)):
        # A publisher is at work: one slower than this must find a newer page, and not none.
        gone = {page for key, (page, _) in known.items() if key in removed and isinstance(page, Page)}
        written += pages.write(storage, snapshot, gone)
        removed = []
    storage.delete([*removed, *broken])
    report = Rebuilt(
        revision=snapshot.root.revision,
        pages=len(wanted),
        written=written,
        finished=finished,
        sidecars=sidecars,
        removed=(*removed, *broken),
        recovered=recovered,
    )
    emit(
        StageFinished(
            stage="index", seconds=time.monotonic() - started, summary=f"{report.written} files written"
        )
    )
    return report


def _pages_there(storage: Storage) -> dict[str, tuple[Page | str, int]]:
    """Key -> page (or "landing") and revision, of all that looks like a page of an index."""
    found: dict[str, tuple[Page | str, int]] = {}
    stats = list(storage.list(""))
    others = layout.others_in(stat.key for stat in stats)
    for stat in stats:
        if stat.key.startswith((layout.FILES, layout.MANIFEST, layout.JOURNAL, *others)):
            continue
        page = page_of(storage, stat.key)
        if page is not None:
            blob = storage.read(stat.key, limit=1024)
            found[stat.key] = (page, pages.revision_of(blob.data) if blob else 0)
    return found


def _next_revision(storage: Storage, least: int) -> Snapshot:
    """The same manifest under a later revision than that of any page: so every page gives way, and nobody's is lost.

    Raises:
        IndexDamaged
    """
    while True:
        snapshot = load(storage)
        if snapshot is None:
            raise IndexDamaged(
                f"The index {storage.url} has no {layout.ROOT}.",
                next="Put it back from a backup, or run "
                f"`vllm-builder index rebuild --from-shards --to {quote(storage.url)}`.",
            )
        list(snapshot.shards())  # nothing is written where one cannot be read
        revision = max(snapshot.root.revision, least) + 1
        root: Root = snapshot.root.model_copy(update={"revision": revision})
        with suppress(Changed):
            token = storage.replace(
                layout.ROOT,
                to_bytes(root),
                content_type="application/json",
                cache_control=FRESH,
                token=snapshot.token,
            )
            return Snapshot(storage, root, token)


def _sidecar(storage: Storage, file: File, emit: Emit) -> str | None:
    """Put back the metadata beside a wheel, where it is not what was published."""
    from vllm_builder.index.checking.content import local_wheel
    from vllm_builder.wheelfile import open_wheel

    there = storage.read(file.metadata_key)
    if there is not None and hashlib.sha256(there.data).hexdigest() == file.metadata_sha256:
        return None
    try:
        with local_wheel(storage, file) as (path, _), open_wheel(path) as wheel:
            data = wheel.read(f"{wheel.dist_info}/METADATA")
    except (KeyError, WheelError):
        data = b""
    if hashlib.sha256(data).hexdigest() != file.metadata_sha256:
        message = f"The metadata of {file.filename} cannot be put back: the wheel is missing or damaged"
        emit(Note(stage="index", message=message, level="warning"))
        return None
    with suppress(Changed):
        storage.replace(
            file.metadata_key,
            data,
            content_type=SIDECAR_TYPE,
            cache_control=IMMUTABLE,
            token=there.token if there else None,
        )
    return file.metadata_key
