"""``vllm-builder bundle``: one archive for a machine without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.options import PUBLISHING, given, settings_options


@click.command()
@settings_options(
    without=(
        *("out", "force", "bundle", "allow_differences", "workspace", "jobs", "nvcc_threads", "isolate"),
        *PUBLISHING,
    )
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="The archive to write; must not exist",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Also show what the tools print")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def bundle(output: Path, verbose: bool, quiet: bool, json_: bool, **options: Any) -> None:
    """Write all that building VERSION needs into one archive, for `build --bundle` without a network."""
    from vllm_builder.bundling import make_bundle
    from vllm_builder.settings.layers import gather

    emit = screen.listener(verbose=verbose, quiet=quiet)
    environ = dict(os.environ)
    made = make_bundle(gather(given(options), environ), output, environ=environ, emit=emit)
    screen.finish()
    if json_:
        screen.print_json(made.model_dump(mode="json"))
        return
    if not quiet:
        for part in made.parts:
            files = f"{part.files} file{'s' if part.files != 1 else ''}"
            click.echo(f"{part.kind:>30}  {files:>9}  {screen.size(part.size)}", err=True)
        click.echo(f"{made.version}, plan {made.digest}", err=True)
        for need in made.needs:
            click.echo(f"the other machine needs: {need}", err=True)
        click.echo(f"sha256 {made.sha256}, {screen.size(made.size)}", err=True)
    click.echo(str(made.path))
