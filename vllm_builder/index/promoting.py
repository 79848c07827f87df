"""Move files from channel to channel: nothing is built, nothing is uploaded."""

from __future__ import annotations

from shlex import quote

from vllm_builder.errors import NotInIndex, PublishRefused, did_you_mean
from vllm_builder.index import layout
from vllm_builder.index.changing import Touched, everything, make, put, touched
from vllm_builder.index.listing import named_channels, new_channel, own_channels
from vllm_builder.index.manifest import Clock, Draft, utc_now
from vllm_builder.index.selecting import Chosen, select
from vllm_builder.index.storage.base import Storage


def promote(
    storage: Storage,
    spec: str,
    *,
    origin: str = "nightly",
    channel: str = "release",
    keep: bool = False,
    dry_run: bool = False,
    clock: Clock = utc_now,
) -> tuple[Touched, ...]:
    """Move files from one channel to another, all of them in one moment.

    Args:
        spec: see :func:`vllm_builder.index.selecting.select`; of what it names, the files in ``origin`` are moved.
        keep: they stay in ``origin``, too. In the channels of their version and commit they stay anyway.

    Returns:
        what became of each; ``unchanged`` where it was moved before.

    Raises:
        NotInIndex: no file is the one that was named, or none of them is in ``origin``.
        PublishRefused: one of them is yanked, or ``channel`` is that of another version; nothing is changed.
        SettingsError: a channel cannot be a folder.
    """
    layout.channel_name(origin)
    layout.channel_name(channel)
    done: list[Touched] = []

    def move(draft: Draft) -> None:
        done.clear()
        known = [Chosen(*one) for one in everything(draft)]
        chosen = select(known, spec)
        there = [one for one in chosen if origin in one.file.channels]
        moved = [one for one in chosen if channel in one.file.channels and one not in there]
        if not there and not moved:
            _nothing(known, chosen, spec, origin)
        yanked = [one for one in there if one.file.yanked is not None]
        if yanked:
            raise PublishRefused(
                f"{yanked[0].file.filename} is yanked.",
                why=yanked[0].file.yanked.reason if yanked[0].file.yanked else "",
                next=f"If it is good all the same: `vllm-builder index unyank {quote(spec)} --to {quote(storage.url)}`, "
                "then promote it.",
                details=[one.file.filename for one in yanked],
            )
        new = new_channel(channel, {name for one in known for name in named_channels(one.file)})
        for one in there:
            layout.suits(channel, one.file.version, one.file.filename)
            # It was not put into the channels of its version and its commit, and cannot be taken out of them.
            left = set() if keep or origin == channel else {origin} - own_channels(one.file)
            channels = {*one.file.channels, channel} - left
            now = Chosen(one.variant, one.file.model_copy(update={"channels": tuple(sorted(channels))}))
            if now.file == one.file:
                done.append(touched(one, "unchanged", f"is in {channel} already"))
                continue
            put(draft, now)
            done.append(touched(now, "promoted", new))
        done.extend(touched(one, "unchanged", f"is in {channel} already") for one in moved)

    make(storage, move, dry_run=dry_run, clock=clock)
    return tuple(done)


def _nothing(known: list[Chosen], chosen: tuple[Chosen, ...], spec: str, origin: str) -> None:
    channels = sorted({name for one in known for name in one.file.channels})
    if origin not in channels:
        raise NotInIndex(
            f"The index has no channel {origin}{did_you_mean(origin, channels)}.",
            why="No file is in it.",
            next="`vllm-builder index list` shows the channels.",
        )
    every = sorted({name for one in chosen for name in one.file.channels})
    named = sorted({name for one in chosen for name in named_channels(one.file)})
    raise NotInIndex(
        f"{spec} is not in the channel {origin}.",
        why=f"It is in {', '.join(every)}.",
        next=f"Say from where: --from {(named or every)[0]}." if every else "",
    )
