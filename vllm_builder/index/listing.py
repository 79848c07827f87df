"""What is in an index, for people and programs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from packaging.version import Version

from vllm_builder.errors import NotInIndex, did_you_mean
from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.model import File, Time
from vllm_builder.index.selecting import Chosen, public_version, select
from vllm_builder.model import Model

if TYPE_CHECKING:
    from vllm_builder.index.candidates import Candidate

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class ChannelState(Model):
    """One channel in one variant. ``newest`` is the upload time of its newest file that is not yanked."""

    channel: str
    variant: str
    files: int
    yanked: int
    size: int
    """Bytes."""
    version: str
    """Of the newest file that is not yanked; empty: none."""
    newest: Time | None


class Listed(Model):
    variant: str
    file: File


class Waiting(Model):
    """A group that is not whole."""

    name: str
    begun: Time
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    files: int


class Listing(Model):
    """``files`` newest first."""

    url: str
    revision: int
    updated: Time
    channels: tuple[ChannelState, ...]
    files: tuple[Listed, ...]
    groups: tuple[Waiting, ...]

    @property
    def size(self) -> int:
        """Bytes of all files that are listed."""
        return sum(one.file.size for one in self.files)


def own_channels(file: File | Candidate) -> set[str]:
    """Those that a file has from its version and its commit, and not by anybody's choice."""
    from_version = public_version(file.version).replace("!", "-")
    return {name for name in file.channels if name == from_version or _COMMIT.fullmatch(name)}


def named_channels(file: File | Candidate) -> set[str]:
    """Those that somebody chose: ``nightly``, ``release``."""
    return set(file.channels) - own_channels(file)


def new_channel(name: str, known: set[str]) -> str:
    """What to say of a channel that nothing is in yet and whose name is nearly that of another; empty: nothing."""
    known = known | {"nightly", "release"}
    if name in known or not (near := did_you_mean(name, known)):
        return ""
    return f"{name} is a new channel{near}"


def survey(snapshot: Snapshot, *, channel: str = "", variant: str = "", spec: str = "") -> Listing:
    """What is in an index, or in one channel or variant of it, or what a text names.

    Raises:
        NotInIndex: there is no such channel, variant or file.
        IndexDamaged: a shard cannot be read.
    """
    every = [Chosen(*one) for one in snapshot.files()]
    _known(channel, "channel", {name for one in every for name in one.file.channels})
    _known(variant, "variant", {one.variant for one in every} | {ref.variant for ref in snapshot.root.shards})
    found = [
        one for one in every if (not channel or channel in one.file.channels) and variant in {"", one.variant}
    ]
    if spec:
        found = list(select(found, spec))
    found.sort(key=lambda one: one.file.filename)
    found.sort(key=lambda one: one.file.uploaded, reverse=True)
    return Listing(
        url=snapshot.storage.url,
        revision=snapshot.root.revision,
        updated=snapshot.root.updated,
        channels=_channels(found, channel),
        files=tuple(Listed(variant=one.variant, file=one.file) for one in found),
        groups=waiting(snapshot),
    )


def waiting(snapshot: Snapshot, *, before: datetime | None = None) -> tuple[Waiting, ...]:
    """Groups that are not whole, oldest first; ``before``: only those that were begun before that."""
    found = []
    for name, group in snapshot.root.groups.items():
        # What was published by itself meanwhile counts as there.
        has = tuple(sorted({*(one.variant for one in group.staged), *group.present}))
        if before is None or group.begun <= before:
            found.append(
                Waiting(
                    name=name,
                    begun=group.begun,
                    has=has,
                    lacks=tuple(one for one in group.expects if one not in has),
                    files=len(group.staged),
                )
            )
    return tuple(sorted(found, key=lambda one: (one.begun, one.name)))


def age(span: timedelta) -> str:
    """``3 h``, ``12 d``; never negative, whatever the clocks say."""
    seconds = max(span.total_seconds(), 0)
    for unit, length, until in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 172800)):
        if seconds < until:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"


def _channels(found: Iterable[Chosen], only: str) -> tuple[ChannelState, ...]:
    by: dict[tuple[str, str], list[File]] = {}
    for one in found:
        for name in one.file.channels:
            if only in {"", name}:
                by.setdefault((name, one.variant), []).append(one.file)
    made = []
    for (name, variant), files in by.items():
        offered = [file for file in files if file.yanked is None]
        newest = max(
            offered, key=lambda file: (file.uploaded, Version(file.version), file.filename), default=None
        )
        made.append(
            ChannelState(
                channel=name,
                variant=variant,
                files=len(files),
                yanked=len(files) - len(offered),
                size=sum(file.size for file in files),
                version=newest.version if newest else "",
                newest=newest.uploaded if newest else None,
            )
        )
    return tuple(sorted(made, key=lambda one: (one.channel, one.variant)))


def _known(name: str, what: str, known: set[str]) -> None:
    if name and name not in known:
        raise NotInIndex(
            f"The index has no {what} {name}{did_you_mean(name, known)}.",
            why="Nothing is published there yet."
            if not known
            else f"It has {', '.join(sorted(known, key=lambda one: (len(one), one))[:8])}.",
            next=f"Leave --{what} away to see all.",
        )
