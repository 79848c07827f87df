"""Making room: by age, by total size, by count, and never what is in use.

Every plan has one *last good* wheel: the newest intact generation under its digest. It goes only when
that is asked for by name (``last_good``). Other generations, which a forced rebuild superseded, and what
was set aside as damaged go by the same rules, and go first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vllm_builder.errors import BuilderError, StoreError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.stages.store import locking, scratch
from vllm_builder.stages.store.model import Entry, NewerRecord, Unreadable, last_used, size_of
from vllm_builder.stages.store.reports import Item, Kept, PruneReport, Reason, WheelKind
from vllm_builder.stages.store.store import Store


@dataclass(frozen=True, slots=True)
class Rules:
    """Which things have to go. None means that the rule is not applied.

    Attributes:
        older_than: seconds since the last use.
        max_size: bytes that may remain in all; the least recently used go first.
        keep: how many may remain; the least recently used go first.
    """

    older_than: float | None = None
    max_size: int | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        for name in ("older_than", "max_size", "keep"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise StoreError(
                    f"{name} is {value}: less than nothing cannot be kept.",
                    next="Give a number of 0 or more.",
                )

    @property
    def any(self) -> bool:
        return (self.older_than, self.max_size, self.keep) != (None, None, None)

    def choose(
        self, items: Iterable[Item], fixed: Callable[[Item], bool], now: float
    ) -> tuple[list[Item], list[Item]]:
        """What has to go, and what the rules met but is fixed.

        Args:
            items: everything there is, in the order in which it may go.
            fixed: items that stay whatever the rules say, and count towards what remains.
            now: seconds since the epoch.
        """
        items = list(items)
        size, number = sum(i.size for i in items), len(items)
        going: list[Item] = []
        staying: list[Item] = []
        for item in items:
            old = self.older_than is not None and now - item.last_used > self.older_than
            too_big = self.max_size is not None and size > self.max_size
            too_many = self.keep is not None and number > self.keep
            if not (old or too_big or too_many):
                continue
            if fixed(item):
                staying.append(item)
                continue
            going.append(item)
            size, number = size - item.size, number - 1
        return going, staying


def prune(
    store: Store,
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    keep: int | None = None,
    only: Collection[str] | None = None,
    last_good: bool = False,
    dry_run: bool = False,
    emit: Emit = ignore,
) -> PruneReport:
    """Remove wheels from the store.

    With no rule, what no plan would be served goes: superseded generations and what was set aside as
    damaged. What killed processes left half-written goes always.

    Args:
        older_than: seconds since the last use.
        max_size: bytes of everything that the rules look at.
        keep: number of things that may remain.
        only: digests or prefixes; nothing else is looked at.
        last_good: also the last good wheel of a plan may go. Needs a rule or ``only``.
        dry_run: say what would go and remove nothing.

    Raises:
        StoreError: a prefix that names nothing or several, a negative rule, ``last_good`` alone.
        NotWritable: the store cannot be written to.
    """
    rules = Rules(older_than, max_size, keep)
    if last_good and not rules.any and only is None:
        raise StoreError(
            "Pruning the last good wheels with no rule would empty the store.",
            next="Say which: by --older-than, --max-size or --keep (--keep 0 for all), or by digest.",
        )
    digests = None if only is None else {store.named(prefix) for prefix in only}
    if not dry_run:
        scratch.sweep(store.root)
    stock = _take_stock(store, digests)
    busy = {h.digest for h in store.running()}

    def fixed(item: Item) -> bool:
        return _digest(item) in busy or (not last_good and item.path in stock.good.values())

    if rules.any:
        going, staying = rules.choose(stock.items, fixed, time.time())
    else:
        met = [i for i in stock.items if i.kind != "wheel" or last_good]
        going, staying = [i for i in met if not fixed(i)], [i for i in met if fixed(i)]
    kept = [
        Kept(i, "in use by a running build" if _digest(i) in busy else "last good wheel of its plan")
        for i in staying
    ]
    removed = []
    for item in going:
        reason = None if dry_run else _remove(store, item, stock.good.get(_digest(item)), emit)
        if reason:
            kept.append(Kept(item, reason))
        else:
            removed.append(item)
    left = [i for i in stock.items if i not in removed]
    return PruneReport(tuple(removed), tuple(kept), len(left), sum(i.size for i in left), dry_run)


@dataclass(frozen=True, slots=True)
class _Stock:
    """``items``: what may go, what matters least first. ``good``: digest -> folder of its last good wheel."""

    items: list[Item]
    good: dict[str, Path]


def _take_stock(store: Store, digests: set[str] | None) -> _Stock:
    items: list[Item] = []
    good: dict[str, Path] = {}
    for digest in store.digests():
        if digests is not None and digest not in digests:
            continue
        generations = store.generations(digest)
        best = _last_good(store, generations)
        if best:
            good[digest] = best
        for found in generations:
            kind: WheelKind = "superseded"
            if found.folder == best:
                kind = "wheel"
            elif isinstance(found, Unreadable) or best is None:
                kind = "damaged"
            name = found.record.wheel.filename if isinstance(found, Entry) else digest
            items.append(Item(kind, name, found.folder, size_of(found.folder), found.last_used))
    with suppress(OSError):
        for path in sorted((store.root / "damaged").iterdir()):
            if digests is None or path.name[:64] in digests:
                items.append(Item("damaged", path.name, path, size_of(path), last_used(path)))
    order = {"damaged": 0, "superseded": 1, "wheel": 2}
    return _Stock(sorted(items, key=lambda i: (order[i.kind], i.last_used, i.path)), good)


def _last_good(store: Store, generations: list[Entry | Unreadable]) -> Path | None:
    """The newest intact generation; one that only a newer version of this program can read counts as such."""
    for found in generations:
        if isinstance(found, Unreadable):
            if isinstance(found.error, NewerRecord):
                return found.folder
        # Where there is but one, nothing depends on the answer, and hashing it would cost seconds.
        elif len(generations) == 1 or not store.intact(found):
            return found.folder
    return None


def _remove(store: Store, item: Item, good: Path | None, emit: Emit) -> Reason | None:
    """Remove one item and return None, or say why it stayed."""
    digest = _digest(item)
    with locking.attempt(store.root, digest) as free:
        if not free:
            return "in use by a running build"
        # Between taking stock and now a builder may have found the good one damaged and moved it aside.
        if item.kind == "superseded" and not (good and good.exists()):
            return "last good wheel of its plan"
        try:
            scratch.discard(store.root, item.path)
        except (OSError, BuilderError) as error:
            emit(Note(stage="store", level="warning", message=f"{item.path} could not be removed: {error}"))
            return "could not be removed"
        with suppress(OSError):
            (store.root / digest).rmdir()
    return None


def _digest(item: Item) -> str:
    """The digest that a wheel (``<digest>/0001``) or a damaged folder (``<digest>-0001-...``) belongs to."""
    return item.path.parent.name if item.path.parent.name != "damaged" else item.path.name[:64]
