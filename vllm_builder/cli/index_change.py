"""``vllm-builder index yank``, ``unyank``, ``promote``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import opened, to_option

if TYPE_CHECKING:
    from vllm_builder.index.changing import Touched

F = TypeVar("F", bound=Callable[..., Any])

_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would change")
_spec = click.argument("spec", metavar="FILE|VERSION|SHA256")


@click.command()
@_spec
@to_option
@click.option("--reason", required=True, metavar="TEXT", help="What pip and uv tell those who pinned it")
@_dry_run
@json_option
def yank(spec: str, to: str, reason: str, dry_run: bool, json_: bool) -> None:
    """Offer files no longer; who pinned one exactly still gets it, with the reason.

    FILE|VERSION|SHA256: a file name, 0.9.2 (all its variants), 0.9.2+cu130, vllm==0.9.2, or the beginning of a hash.
    """
    from vllm_builder.index import yanking

    _show(yanking.yank(opened(to), spec, reason, dry_run=dry_run), dry_run=dry_run, json_=json_)


@click.command()
@_spec
@to_option
@_dry_run
@json_option
def unyank(spec: str, to: str, dry_run: bool, json_: bool) -> None:
    """Offer yanked files again."""
    from vllm_builder.index import yanking

    _show(yanking.unyank(opened(to), spec, dry_run=dry_run), dry_run=dry_run, json_=json_)


@click.command()
@_spec
@to_option
@click.option("--from", "origin", default="nightly", show_default=True, metavar="NAME", help="Where it is")
@click.option("--channel", default="release", show_default=True, metavar="NAME", help="Where it is to be")
@click.option("--keep", is_flag=True, help="It stays in the old channel, too")
@_dry_run
@json_option
def promote(spec: str, to: str, origin: str, channel: str, keep: bool, dry_run: bool, json_: bool) -> None:
    """Move files to another channel without building or uploading anything."""
    from vllm_builder.index import promoting

    done = promoting.promote(opened(to), spec, origin=origin, channel=channel, keep=keep, dry_run=dry_run)
    _show(done, dry_run=dry_run, json_=json_)


def _show(done: Sequence[Touched], *, dry_run: bool, json_: bool) -> None:
    screen.finish()
    if json_:
        screen.print_json({"dry_run": dry_run, "files": [one.model_dump(mode="json") for one in done]})
        return
    for one in done:
        said = f"would be {one.outcome}" if dry_run and one.outcome != "unchanged" else one.outcome
        note = f" ({one.note})" if one.note else ""
        click.echo(f"{said}: {one.filename} [{one.variant}] in {', '.join(one.channels)}{note}")
