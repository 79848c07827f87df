"""``vllm-builder index prune``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import opened, to_option

if TYPE_CHECKING:
    from vllm_builder.index.pruning import Pruned


@click.command()
@to_option
@click.option("--keep", required=True, type=click.IntRange(0), metavar="N", help="Nightlies that stay")
@click.option(
    "--grace", default="7d", show_default=True, metavar="AGE", help="Between yanking and deleting: 7d, 12h"
)
@click.option("--dry-run", is_flag=True, help="Only say what would be yanked and deleted")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def prune(to: str, keep: int, grace: str, dry_run: bool, quiet: bool, json_: bool) -> None:
    """Keep the last N nightlies and every release: yank what is older, delete it when its grace period is over.

    A nightly is one version with all its variants. What is in any channel but nightly stays. Uploads that nobody
    entered, groups that never became whole and older states of the manifest go after the grace period, too.
    """
    from vllm_builder.index import pruning

    span = timedelta(seconds=seconds(grace, "--grace"))
    report = pruning.prune(
        opened(to), keep=keep, grace=span, dry_run=dry_run, emit=screen.listener(quiet=quiet)
    )
    screen.finish()
    if json_:
        screen.print_json(report.model_dump(mode="json") | {"dry_run": dry_run, "freed": report.freed})
        return
    _show(report, dry_run=dry_run)


def _show(report: Pruned, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for one in (*report.yanked, *report.deleted):
        click.echo(f"{would}{one.outcome}: {one.filename} [{one.variant}], {screen.size(one.size)}")
    for one in report.waiting:
        click.echo(f"waits: {one.filename} [{one.variant}] {one.note}")
    for name in report.groups:
        click.echo(f"{would}deleted: group {name}, which never became whole")
    for kind, what in (
        ("content", "upload that nobody entered"),
        ("manifest", "older state of the manifest"),
        ("temporary", "half-written file"),
    ):
        these = [one for one in report.leftovers if one.kind == kind]
        if these:
            total = screen.size(sum(one.size for one in these))
            click.echo(f"{would}deleted: {len(these)} x {what}, {total}")
    click.echo(
        f"{'dry run: ' if dry_run else ''}{len(report.kept)} nightlies stay, {len(report.yanked)} files yanked, "
        f"{len(report.deleted)} deleted, {len(report.waiting)} wait; {screen.size(report.freed)} freed"
    )


def seconds(text: str, option: str) -> float:
    """``7d`` -> seconds.

    Raises:
        SettingsError: it is no age.
    """
    import re

    from vllm_builder.errors import SettingsError

    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)\s*([smhdw])", text.strip())
    if match is None:
        raise SettingsError(f"{option} {text!r} is no age.", next="Write for example 7d, 12h or 90m.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
