"""``vllm-builder index list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import opened, to_option

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from vllm_builder.index.listing import Listed, Listing

_NEWEST = 15
"""Versions that are shown unless asked for more."""
_WIDTH = 130


@click.command("list")
@click.argument("spec", metavar="[FILE|VERSION|SHA256]", default="")
@to_option
@click.option("--channel", default="", metavar="NAME", help="Only this channel")
@click.option("--variant", default="", metavar="NAME", help="Only this variant")
@click.option("--all", "all_", is_flag=True, help="Every version, and the channels of versions and commits")
@json_option
def list_(spec: str, to: str, channel: str, variant: str, all_: bool, json_: bool) -> None:
    """What is in an index: its channels and how old they are, its versions, what is yanked and what waits.

    With a file name, a version or the beginning of a hash: its files, one by one.
    """
    from vllm_builder.index.listing import survey
    from vllm_builder.index.manifest import load, utc_now

    storage = opened(to)
    snapshot = load(storage)
    if snapshot is None:  # deleted in this moment
        opened(to)
        return
    listing = survey(snapshot, channel=channel, variant=variant, spec=spec)
    if json_:
        screen.print_json(listing.model_dump(mode="json"))
        return
    _show(listing, utc_now(), single=bool(spec), all_=all_ or bool(channel))


def _show(listing: Listing, now: datetime, *, single: bool, all_: bool) -> None:
    from shlex import quote

    from vllm_builder.index.listing import age

    console = screen.console(width=_WIDTH)
    console.print(f"{listing.url}", style="bold", highlight=False, markup=False, soft_wrap=True)
    number = f"{len(listing.files)} file{'s' if len(listing.files) != 1 else ''}"
    console.print(
        f"{number}, {screen.size(listing.size)}; revision {listing.revision}, "
        f"changed {age(now - listing.updated)} ago",
        style="dim",
        highlight=False,
    )
    if not listing.files:
        text = f"No file yet: vllm-builder index publish WHEEL --to {quote(listing.url)}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    elif single:
        console.print()
        console.print(_files(listing.files, now))
    else:
        console.print()
        console.print(_channels(listing, now, all_=all_))
        console.print()
        _versions(console, listing, now, all_=all_)
    if listing.groups:
        console.print()
        console.print(_groups(listing, now))


def _table(*titles: str, right: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", justify="right" if title in right else "left")
    return table


def _channels(listing: Listing, now: datetime, *, all_: bool) -> Table:
    from rich.markup import escape

    from vllm_builder.index.listing import age, named_channels

    named = {name for one in listing.files for name in named_channels(one.file)}
    variants = sorted({one.variant for one in listing.channels})
    table = _table("channel", *variants)
    others = 0
    by = {(one.channel, one.variant): one for one in listing.channels}
    for channel in sorted({one.channel for one in listing.channels}, key=lambda c: (c not in named, c)):
        if channel not in named and not all_:
            others += 1
            continue
        cells = []
        for variant in variants:
            state = by.get((channel, variant))
            if state is None:
                cells.append("-")
            elif state.newest is None:
                cells.append(f"{state.files}, all yanked")
            else:
                cells.append(f"{state.version}, {age(now - state.newest)} ({state.files})")
        table.add_row(escape(channel[:12] if len(channel) == 40 else channel), *map(escape, cells))
    if others:
        table.add_row(f"and {others} of single versions and commits (--all)", style="dim")
    return table


def _versions(console: Console, listing: Listing, now: datetime, *, all_: bool) -> None:
    """One row for a version with all its variants."""
    from rich.markup import escape

    from vllm_builder.index.listing import age, named_channels
    from vllm_builder.index.selecting import public_version

    table = _table("version", "variants", "size", "age", "channels", "", right=("size", "age"))
    by: dict[tuple[str, str], list[Listed]] = {}
    for one in listing.files:
        by.setdefault((one.file.project, public_version(one.file.version)), []).append(one)
    rows = list(by.items())
    for (project, version), files in rows if all_ else rows[:_NEWEST]:
        yanked = [one for one in files if one.file.yanked is not None]
        variants = sorted({one.variant for one in files if one not in yanked})
        remark = ""
        if yanked:
            what = "yanked" if not variants else f"yanked: {', '.join(sorted({o.variant for o in yanked}))}"
            reason = next(one.file.yanked.reason for one in yanked if one.file.yanked is not None)
            remark = f"{what} ({reason})"
        table.add_row(
            escape(f"{project} {version}"),
            escape(", ".join(variants) or "-"),
            screen.size(sum(one.file.size for one in files)),
            age(now - max(one.file.uploaded for one in files)),
            escape(", ".join(sorted({name for one in files for name in named_channels(one.file)})) or "-"),
            escape(remark),
            style="dim" if not variants else "",
        )
    console.print(table)
    if len(rows) > _NEWEST and not all_:
        console.print(f"and {len(rows) - _NEWEST} older versions (--all)", style="dim", highlight=False)


def _files(files: tuple[Listed, ...], now: datetime) -> Table:
    from rich.markup import escape

    from vllm_builder.index.listing import age

    table = _table("file", "variant", "size", "age", "channels", "sha256", "", right=("size", "age"))
    for one in files:
        file = one.file
        channels = [name[:12] if len(name) == 40 else name for name in file.channels]
        remarks = []
        if file.yanked:
            after = f", deleted after {file.yanked.delete_after:%Y-%m-%d}" if file.yanked.delete_after else ""
            remarks.append(f"yanked: {file.yanked.reason}{after}")
        if file.checked.result != "good":
            remarks.append(": ".join(filter(None, (file.checked.result, file.checked.reason))))
        table.add_row(
            escape(file.filename),
            escape(one.variant),
            screen.size(file.size),
            age(now - file.uploaded),
            escape(", ".join(channels)),
            file.sha256[:12],
            escape("; ".join(remarks)),
        )
    return table


def _groups(listing: Listing, now: datetime) -> Table:
    from rich.markup import escape

    from vllm_builder.index.listing import age

    table = _table("group that waits", "has", "lacks", "begun")
    for one in listing.groups:
        table.add_row(
            escape(one.name), escape(", ".join(one.has)), escape(", ".join(one.lacks)), age(now - one.begun)
        )
    return table
