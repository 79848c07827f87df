"""Keep an index small: old nightlies are yanked first and deleted later; what nobody entered goes, too.

Nothing is deleted in the run that first finds it superseded. Times are compared with those that the index has recorded, and
with this machine's clock: if either is behind, the deletion waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from vllm_builder.errors import SettingsError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.index import layout
from vllm_builder.index.changing import Touched, everything, make, put, touched
from vllm_builder.index.listing import named_channels
from vllm_builder.index.manifest import Clock, Draft, utc_now
from vllm_builder.index.model import File, Group, Yanked
from vllm_builder.index.selecting import Chosen, public_version
from vllm_builder.index.storage.base import Stat, Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.model import Model

GRACE: Final = timedelta(days=7)
_AT_WORK: Final = timedelta(hours=1)
"""Nothing younger is taken for left over, whatever the grace period: somebody may be uploading or reading it."""
_REMEMBERED: Final = timedelta(days=90)
"""How long it is kept in mind under which keys content was deleted: longer than any deletion can be late."""


class Leftover(Model):
    """What no file of the index names. ``kind``: ``content``, ``manifest`` (an older state), ``temporary``."""

    key: str
    kind: str
    size: int


class Pruned(Model):
    """What was done, or would be."""

    kept: tuple[str, ...]
    """``PROJECT VERSION`` of the nightlies that stay, newest first."""
    yanked: tuple[Touched, ...] = ()
    deleted: tuple[Touched, ...] = ()
    waiting: tuple[Touched, ...] = ()
    """Superseded and yanked; their grace period is not over."""
    groups: tuple[str, ...] = ()
    """Abandoned: never whole."""
    leftovers: tuple[Leftover, ...] = ()

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(one.size for one in self.deleted) + sum(one.size for one in self.leftovers)


def prune(
    storage: Storage,
    *,
    keep: int,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    clock: Clock = utc_now,
    emit: Emit = ignore,
) -> Pruned:
    """Keep the last nightlies of each project, every release, and all that is in a channel of another name.

    A nightly is one public version with all its variants. What is superseded is yanked, and deleted by a later run when
    the grace period is over; so are groups that never became whole, and uploads that nobody entered.

    Args:
        keep: nightlies of each project that stay; yanked ones do not count.
        grace: between yanking and deleting, and before anything left over is deleted.

    Raises:
        SettingsError: ``keep`` or ``grace`` is negative.
        see :func:`vllm_builder.index.transaction.change`.
    """
    if keep < 0 or grace < timedelta(0):
        raise SettingsError(
            "prune keeps no negative number or time.", next="Write for example --keep 14 --grace 7d."
        )
    emit(Note(stage="index", message="Looking for what no file of the index names"))
    now = clock()
    until = now - max(grace, _AT_WORK)
    old = [one for one in _stored(storage) if datetime.fromtimestamp(one.modified, UTC) <= until]
    report = Pruned(kept=())

    def sweep(draft: Draft) -> None:
        nonlocal report
        due = min(now, draft.at)
        nightlies = _nightlies(everything(draft))
        kept, superseded = _split(nightlies, keep)
        yanked, deleted, waiting = [], [], []
        doomed: list[File] = []
        for one in superseded:
            if one.file.yanked is None or one.file.yanked.delete_after is None:
                now_yanked = _mark(one, draft.at, grace, keep)
                put(draft, now_yanked)
                yanked.append(touched(now_yanked, "yanked"))
            elif one.file.yanked.delete_after <= due:
                draft.files(*one.where).pop(one.file.filename)
                doomed.append(one.file)
                deleted.append(touched(one, "deleted"))
            else:
                waiting.append(
                    touched(
                        one, "waits", f"is deleted after {one.file.yanked.delete_after:%Y-%m-%d %H:%M} UTC"
                    )
                )
        groups = [name for name, group in draft.groups.items() if _last(group) + grace <= due]
        for name in groups:
            doomed += [member.file for member in draft.groups.pop(name).staged]
        # The same bytes under two names: their generation is one, and stays as long as one of them does.
        live = {layout.content_of(key) for key in _named(draft)}
        draft.condemn(key for file in doomed if layout.content_of(file.key) not in live for key in file.keys)
        leftovers = _unnamed(draft, old)
        draft.condemn(one.key for one in leftovers)
        _forget(draft)
        report = Pruned(
            kept=tuple(kept),
            yanked=tuple(yanked),
            deleted=tuple(deleted),
            waiting=tuple(waiting),
            groups=tuple(groups),
            leftovers=tuple(leftovers),
        )

    make(storage, sweep, dry_run=dry_run, clock=clock)
    if isinstance(storage, Folder):
        swept = storage.sweep(before=until.timestamp(), dry_run=dry_run)
        temporary = tuple(Leftover(key=one.key, kind="temporary", size=one.size) for one in swept)
        report = report.model_copy(update={"leftovers": (*report.leftovers, *temporary)})
    return report


def _stored(storage: Storage) -> Iterator[Stat]:
    for prefix in (layout.FILES, layout.MANIFEST):
        yield from storage.list(prefix)


def _nightlies(files: Iterable[tuple[str, File]]) -> dict[tuple[str, str], list[Chosen]]:
    """(project, public version) -> its files that are nothing but nightlies; newest first, by their last upload."""
    found: dict[tuple[str, str], list[Chosen]] = {}
    for one in files:
        chosen = Chosen(*one)
        if named_channels(chosen.file) == {"nightly"}:
            found.setdefault((chosen.file.project, public_version(chosen.file.version)), []).append(chosen)
    return dict(
        sorted(found.items(), key=lambda item: (max(o.file.uploaded for o in item[1]), item[0]), reverse=True)
    )


def _split(nightlies: dict[tuple[str, str], list[Chosen]], keep: int) -> tuple[list[str], list[Chosen]]:
    kept: list[str] = []
    superseded: list[Chosen] = []
    counted: dict[str, int] = {}
    for (project, version), files in nightlies.items():
        if counted.get(project, 0) >= keep:
            superseded += files
            continue
        kept.append(f"{project} {version}")
        # One that was yanked for a fault is none that anybody could fall back on.
        counted[project] = counted.get(project, 0) + any(one.file.yanked is None for one in files)
    return kept, superseded


def _mark(one: Chosen, at: datetime, grace: timedelta, keep: int) -> Chosen:
    there = one.file.yanked
    reason = there.reason if there else f"superseded: of the nightlies the last {keep} are kept"
    yanked = Yanked(reason=reason, at=there.at if there else at, delete_after=at + grace)
    return Chosen(one.variant, one.file.model_copy(update={"yanked": yanked}))


def _last(group: Group) -> datetime:
    return max([group.begun, *(one.file.uploaded for one in group.staged)])


def _named(draft: Draft) -> set[str]:
    """Keys of wheels, and of what lies beside them, that the draft or one of its groups needs."""
    staged = (member.file for group in draft.groups.values() for member in group.staged)
    return {key for file in (*(file for _, file in everything(draft)), *staged) for key in file.keys}


def _unnamed(draft: Draft, old: list[Stat]) -> list[Leftover]:
    named = _named(draft)
    # What lies beside a wheel that is served shares its generation: condemned with it would be the wheel.
    live = {layout.content_of(key) for key in named}
    root = draft.snapshot.root
    shards = {layout.ROOT, *(ref.key for ref in root.shards), *(one.key for one in root.superseded)}
    condemned = set(draft.delete)
    found = []
    for one in old:
        if one.key.startswith(layout.MANIFEST):
            if one.key not in shards:
                found.append(Leftover(key=one.key, kind="manifest", size=one.size))
        elif layout.content_of(one.key) not in {None, *live} and one.key not in condemned:
            found.append(Leftover(key=one.key, kind="content", size=one.size))
    return found


def _forget(draft: Draft) -> None:
    """Content that was deleted long ago and is not there again."""
    live = {content[0] for key in _named(draft) if (content := layout.content_of(key))}
    for sha256, gone in list(draft.gone.items()):
        if gone.at + _REMEMBERED <= draft.at and sha256 not in live:
            del draft.gone[sha256]
