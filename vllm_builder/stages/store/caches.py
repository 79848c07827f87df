"""Making room in the other caches: all of them can be filled again, at the price of time or network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, get_args

from filelock import Timeout

from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError, StoreError, did_you_mean
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.stages.smoke.room import idle
from vllm_builder.stages.store import locking, scratch
from vllm_builder.stages.store.model import last_used, size_of
from vllm_builder.stages.store.pruning import Rules
from vllm_builder.stages.store.reports import CacheKind, Item, Kept, PruneReport, Reason
from vllm_builder.stages.store.store import Store

KINDS: Final[tuple[CacheKind, ...]] = get_args(CacheKind)
"""The kinds that :func:`prune_cache` knows."""


def contents(cache: Cache, kinds: Iterable[str] = KINDS) -> list[Item]:
    """What the caches hold, each thing that can be removed by itself as one item.

    Raises:
        StoreError: an unknown kind.
    """
    return [item for kind in _checked(kinds) for item in _items(cache, kind)]


def prune_cache(
    cache: Cache,
    kinds: Iterable[str],
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    keep: int | None = None,
    dry_run: bool = False,
    emit: Emit = ignore,
) -> PruneReport:
    """Remove from the caches other than the store; with no rule, everything of the named kinds.

    While any build runs nothing is removed: it may be using any of it. The rules mean what they mean for
    :func:`vllm_builder.stages.store.prune`, over all named kinds together.

    Raises:
        StoreError: an unknown kind, or a negative rule.
    """
    rules = Rules(older_than, max_size, keep)
    items = sorted(contents(cache, kinds), key=lambda i: (i.last_used, i.path))
    store = Store(cache.store)
    met = rules.choose(items, lambda _: False, time.time())[0] if rules.any else items
    removed: list[Item] = []
    kept: list[Kept] = []
    busy = bool(store.running())
    for item in met:
        reason: Reason | None = "in use by a running build" if busy else None
        if not dry_run and not busy:
            reason = _remove(cache, item, emit)
        if reason:
            kept.append(Kept(item, reason))
        else:
            removed.append(item)
    gone = {item.path for item in removed}
    left = [i for i in items if i.path not in gone]
    return PruneReport(tuple(removed), tuple(kept), len(left), sum(i.size for i in left), dry_run)


def _checked(kinds: Iterable[str]) -> list[CacheKind]:
    found: list[CacheKind] = []
    for kind in kinds:
        match = next((known for known in KINDS if known == kind), None)
        if match is None:
            raise StoreError(
                f"There is no cache of the kind {kind!r}{did_you_mean(kind, KINDS)}.",
                next=f"Choose from {', '.join(KINDS)}.",
            )
        if match not in found:
            found.append(match)
    return found


def _items(cache: Cache, kind: CacheKind) -> Iterator[Item]:
    for path in _units(cache, kind):
        with suppress(OSError):
            name, used = path.name, _newest(path)
            if kind == "native":
                name, used = _layer_of(path), last_used(path)
            yield Item(kind, name, path, size_of(path), used)


def _units(cache: Cache, kind: CacheKind) -> Iterator[Path]:
    match kind:
        case "downloads":
            yield from _children(cache.downloads / "sha256")
        case "git":
            yield from _children(cache.git)
        case "surveys":
            yield from _children(cache.surveys)
        case "environments":
            yield from _children(cache.environments)
        case "toolkits":
            yield from _children(cache.toolkits)
        case "bundles":
            yield from _children(cache.bundles)
        case "smoke":
            yield from (p for p in _children(cache.smoke) if p.name.startswith("room-"))
            yield from _children(cache.smoke / "logs")
        case "exports":
            yield from _children(cache.exports)
        case "memo":
            yield from (p for p in sorted(cache.memo.rglob("*.json")) if p.is_file())
        case "native":
            # One by one and not the folder: a layer that is being packed or written holds its lock.
            store = Store(cache.native, noun="native layer")
            yield from (found.folder for found in store.scan())
            yield from _children(cache.native / "damaged")
        case "passes":
            yield from _children(cache.passes)
        case "ccache" | "sccache":
            # Whole: its files count each other's sizes, and its own options trim it by age and size.
            folder = cache.ccache if kind == "ccache" else cache.sccache
            if folder.is_dir():
                yield folder


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.endswith(".lock"))
    except OSError:
        return []


def _newest(path: Path) -> float:
    """The latest change of a thing, or use of a file that lies directly in it."""
    newest = path.lstat().st_mtime
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            with suppress(OSError):
                stat = child.lstat()
                # Merely listing a folder counts as access to it: of a folder only the change tells.
                newest = max(newest, stat.st_mtime, 0.0 if child.is_dir() else stat.st_atime)
    return newest


def _layer_of(path: Path) -> str:
    """The digest of a layer (``<digest>/0001``, ``damaged/<digest>-0001-...``)."""
    return path.name[:64] if path.parent.name == "damaged" else path.parent.name


def _remove(cache: Cache, item: Item, emit: Emit) -> Reason | None:
    try:
        with ExitStack() as stack:
            if item.kind == "smoke" and item.path.is_dir():
                try:
                    stack.enter_context(idle(item.path))
                except Timeout:
                    return "in use by a running smoke test"
            if item.kind == "native" and not stack.enter_context(
                locking.attempt(cache.native, _layer_of(item.path))
            ):
                return "in use by a running build"
            scratch.discard(cache.root, item.path)
            if item.kind == "native":
                with suppress(OSError):
                    item.path.parent.rmdir()
    except (OSError, BuilderError) as error:
        emit(Note(stage="store", level="warning", message=f"{item.path} could not be removed: {error}"))
        return "could not be removed"
    return None
