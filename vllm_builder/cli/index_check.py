"""``vllm-builder index check``, ``rebuild``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import to_option

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from vllm_builder.index.checking import CheckReport
    from vllm_builder.index.rebuilding import Rebuilt

_WIDTH = 120


@click.command()
@to_option
@click.option("--quick", is_flag=True, help="Do not read the wheels themselves")
@click.option("--provenance", is_flag=True, help="Hold the provenance beside each wheel against it")
@click.option(
    "--key", "keys", multiple=True, metavar="FILE", help="A public key that may have signed; several"
)
@click.option(
    "--max-age", default="", metavar="AGE", help="How old the newest nightly of a variant may be: 2d"
)
@click.option("--strict", is_flag=True, help="Warnings fail, too")
@click.option("--jobs", default=8, show_default=True, type=click.IntRange(1, 64), help="Read so many at once")
@click.option("-v", "--verbose", is_flag=True, help="Also where and why of remarks")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def check(
    to: str,
    quick: bool,
    provenance: bool,
    keys: tuple[str, ...],
    max_age: str,
    strict: bool,
    jobs: int,
    verbose: bool,
    quiet: bool,
    json_: bool,
) -> None:
    """Walk everything: hashes, metadata, pages, links, leftovers. Says what is wrong; changes nothing.

    Exit code: 0 in order, 94 not (with --strict also for warnings).
    """
    from datetime import timedelta

    from vllm_builder.cli.index_prune import seconds
    from vllm_builder.errors import CheckFailed, SettingsError
    from vllm_builder.index import checking
    from vllm_builder.index.opening import open_index

    if keys and not provenance:
        raise SettingsError("--key was given without --provenance.", next="Add --provenance.")
    report = checking.check(
        open_index(to, damaged=True),
        quick=quick,
        provenance=provenance,
        keys=_keys(keys),
        max_age=timedelta(seconds=seconds(max_age, "--max-age")) if max_age else None,
        jobs=jobs,
        emit=screen.listener(quiet=quiet),
    )
    screen.finish()
    if json_:
        screen.print_json(report.model_dump(mode="json") | {"good": report.good})
    else:
        _show(report, verbose=verbose)
    try:
        checking.judge(report, strict=strict)
    except CheckFailed as error:
        # The report has said it all: on standard output there is one document.
        if not json_ and not quiet:
            click.echo(f"error: {error.what}", err=True)
        raise SystemExit(error.exit_code) from None


def _keys(files: tuple[str, ...]) -> tuple[SSlibKey, ...]:
    if not files:
        return ()
    from pathlib import Path

    from vllm_builder.index.provenance.signing import load_public_keys

    return tuple(load_public_keys([Path(one) for one in files]))


def _show(report: CheckReport, *, verbose: bool) -> None:
    from vllm_builder.cli.verify import findings_table
    from vllm_builder.index.checking.checking import tally

    console = screen.console(width=_WIDTH)
    if report.findings:
        console.print(findings_table(report.findings, verbose=verbose))
        console.print()
    how = "their content not read" if report.quick else f"{screen.size(report.bytes_read)} read"
    click.echo(
        f"{report.url}: revision {report.revision}, {report.files} files, {report.pages} pages, {how}, "
        f"{screen.duration(report.seconds)}"
    )
    click.echo(f"in order: {tally(report)}" if report.good else f"NOT in order: {tally(report)}")


@click.command()
@to_option
@click.option(
    "--from-shards", is_flag=True, help="The root of the manifest is lost: make it anew from its parts"
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def rebuild(to: str, from_shards: bool, quiet: bool, json_: bool) -> None:
    """Write all pages from the manifest, put back metadata that is missing, finish what others left undone."""
    from vllm_builder.index import rebuilding
    from vllm_builder.index.opening import open_index

    report = rebuilding.rebuild(
        open_index(to, damaged=from_shards), from_shards=from_shards, emit=screen.listener(quiet=quiet)
    )
    screen.finish()
    if json_:
        screen.print_json(report.model_dump(mode="json"))
        return
    _say(report)


def _say(report: Rebuilt) -> None:
    for line in report.recovered:
        click.echo(f"recovered: {line}")
    for key in report.sidecars:
        click.echo(f"put back: {key}")
    for key in report.removed:
        click.echo(f"removed: {key}")
    click.echo(
        f"revision {report.revision}: {report.pages} pages, {report.written} files written, "
        f"{report.finished} changes finished, {len(report.removed)} removed"
    )
