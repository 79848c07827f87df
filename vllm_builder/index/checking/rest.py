"""What nothing names, what waits, and what has grown old."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import Final, Literal

from vllm_builder.index import layout, pages
from vllm_builder.index.checking.pages import check_gone
from vllm_builder.index.checking.walk import SETTLED, Walk, journal
from vllm_builder.index.listing import age, waiting
from vllm_builder.index.model import Page
from vllm_builder.index.storage.base import Stat, Storage
from vllm_builder.index.storage.folder import Folder
from vllm_builder.stages.verify.model import Finding, Severity

_LONG: Final = timedelta(days=1)
_AHEAD: Final = timedelta(minutes=5)
_SHOWN: Final = 3


def check_rest(walk: Walk, pending: frozenset[Page]) -> Iterator[Finding]:
    """What lies in the index and does not belong to it, or not any more."""
    root = walk.snapshot.root
    walk.expected |= {layout.ROOT, *(ref.key for ref in root.shards), *(one.key for one in root.superseded)}
    extra = [stat for key, stat in sorted(walk.stats.items()) if key not in walk.expected]
    live = {layout.content_of(key) for key in walk.expected}
    orphans: list[Stat] = []
    states: list[Stat] = []
    emptied: list[Stat] = []
    foreign: list[Stat] = []
    others = layout.others_in(walk.stats)
    for stat in extra:
        if stat.key.startswith(layout.JOURNAL):
            continue
        if stat.key.startswith(others):
            foreign.append(stat)
            continue
        if stat.key.startswith(layout.FILES):
            content = layout.content_of(stat.key)
            (foreign if content is None or content in live else orphans).append(stat)
        elif stat.key.startswith(layout.MANIFEST):
            states.append(stat)
        elif (page := page_of(walk.storage, stat.key)) is not None:
            if isinstance(page, Page):
                found = check_gone(walk, page, page in pending)
                yield from (one for one in found if one.where == stat.key)
            emptied.append(stat)
        else:
            foreign.append(stat)
    prune = f"`vllm-builder index prune --keep N --to {quote(walk.storage.url)}` removes it after the grace period."
    rebuild = f"`vllm-builder index rebuild --to {quote(walk.storage.url)}` removes it."
    old = [one for one in orphans if _age(one, walk.now) > _LONG]
    yield from _some(
        old, "orphans", "info", lambda n: f"{n} uploads were never entered, or are deleted late.", prune
    )
    yield from _some(states, "older-states", "info", lambda n: f"{n} older states of the manifest.", prune)
    yield from _some(
        emptied,
        "emptied-pages",
        "info",
        lambda n: f"{n} pages of what is gone, or of an earlier vllm-builder.",
        rebuild,
    )
    yield from _some(
        foreign,
        "extra",
        "warning",
        lambda n: f"{n} {'file is' if n == 1 else 'files are'} none of this index.",
        "Look at them, and delete them by hand.",
        why="They are served with it, and nothing names them.",
    )
    if isinstance(walk.storage, Folder):
        half = walk.storage.sweep(before=(walk.now - _LONG).timestamp(), dry_run=True)
        yield from _some(half, "half-written", "info", lambda n: f"{n} half-written files.", prune)


def check_waiting(walk: Walk, max_age: timedelta | None) -> Iterator[Finding]:
    """Journal, groups, and the age of the newest nightly."""
    url = walk.storage.url
    for stat, entry in journal(walk.storage):
        walk.expected.add(stat.key)
        if entry is None:
            yield Finding(
                check="journal-damaged",
                severity="warning",
                what=f"{stat.key} cannot be read.",
                where=stat.key,
                why="It names pages that may not be written.",
                cure=f"`vllm-builder index rebuild --to {quote(url)}` writes all pages and removes it.",
            )
        elif entry.base >= walk.snapshot.root.revision:
            continue  # it may still be made; if its publisher was ended, the next change finds that it was not
        elif walk.now - entry.begun > SETTLED:
            yield Finding(
                check="unfinished",
                severity="warning",
                what=f"A publisher did not come to write its {len(entry.pages)} pages, {age(walk.now - entry.begun)} ago.",
                where=stat.key,
                cure=f"The next change writes them, or `vllm-builder index rebuild --to {quote(url)}`.",
            )
    for group in waiting(walk.snapshot, before=walk.now - _LONG):
        yield Finding(
            check="group-waits",
            severity="warning",
            what=f"The group {group.name} waits for {', '.join(group.lacks)} since {age(walk.now - group.begun)}.",
            why=f"Until then nobody sees its {', '.join(group.has)}.",
            cure=f"Publish what lacks with --group {group.name}; `index prune` gives it up after the grace period.",
        )
    updated = walk.snapshot.root.updated
    if updated - walk.now > _AHEAD:
        yield Finding(
            check="clock",
            severity="warning",
            what=f"The index was last changed in the future: {updated:%Y-%m-%d %H:%M} UTC.",
            why="The clock of this machine is behind, or that of a publisher was ahead: upload times are wrong.",
            cure="Set the clocks by NTP.",
        )
    if max_age is not None:
        yield from _stale(walk, max_age)


def _stale(walk: Walk, max_age: timedelta) -> Iterator[Finding]:
    newest: dict[str, datetime] = {}
    for variant, file in walk.files():
        if "nightly" in file.channels and file.yanked is None:
            newest[variant] = max(newest.get(variant, file.uploaded), file.uploaded)
    if not newest:
        yield Finding(
            check="stale",
            severity="error",
            what="There is no nightly that is not yanked.",
            cure="Publish one.",
        )
    for variant, at in sorted(newest.items()):
        if walk.now - at > max_age:
            yield Finding(
                check="stale",
                severity="error",
                what=f"The newest nightly for {variant} is {age(walk.now - at)} old; {age(max_age)} are allowed.",
                cure="See why none was published since.",
            )


def page_of(storage: Storage, key: str) -> Page | Literal["landing"] | None:
    """The page that an object was written for; None: it is none of ours."""
    blob = storage.read(key, limit=1024)
    if blob is None or pages.revision_of(blob.data) < 0:
        return None
    if key.startswith(layout.LANDING) or key == layout.LANDING_PAGE or pages.is_signpost(key):
        return "landing"
    parts = key.removeprefix(layout.JSON_ROOT).split("/")
    try:
        channel, variant, *project = parts[:-1]
        return Page(channel=channel, variant=variant, project="/".join(project))
    except ValueError:  # no page of ours has such a name
        return None


def _some(
    found: Iterable[Stat],
    check: str,
    severity: Severity,
    what: Callable[[int], str],
    cure: str,
    why: str = "",
) -> Iterator[Finding]:
    these = list(found)
    if not these:
        return
    more = f" and {len(these) - _SHOWN} more" if len(these) > _SHOWN else ""
    size = sum(one.size for one in these)
    yield Finding(
        check=check,
        severity=severity,
        what=f"{what(len(these))} ({size / 1e6:.1f} MB)",
        where=", ".join(one.key for one in these[:_SHOWN]) + more,
        why=why,
        cure=cure,
    )


def _age(stat: Stat, now: datetime) -> timedelta:
    return now - datetime.fromtimestamp(stat.modified, UTC)
