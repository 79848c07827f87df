"""``vllm-builder report``: what a build took, and where its time went."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option


@click.command()
@click.argument("plan", metavar="PLAN|latest", default="latest")
@click.option("--workspace", metavar="DIR", help="Folder of the build (default: ./build)")
@click.option(
    "-o", "--output", metavar="FILE", help="Where the page is put (default: beside the build's log)"
)
@click.option("--trace", metavar="FILE", help="Also write a trace that https://ui.perfetto.dev opens")
@json_option
def report(plan: str, workspace: str | None, output: str | None, trace: str | None, json_: bool) -> None:
    """Make the report of a build, also of one that failed, was broken off, or runs now.

    PLAN is the beginning of a plan's digest or a version that was built in this workspace; by default the latest.
    The report is one HTML file that needs no network; its path is printed. With --json it is printed as JSON instead.
    """
    from vllm_builder.api import workspace_of
    from vllm_builder.report import finding, html
    from vllm_builder.report import trace as traces
    from vllm_builder.settings.layers import gather

    given = {"workspace": Path(workspace)} if workspace else {}
    place = workspace_of(gather(given, dict(os.environ)).resolve().settings)
    made = finding.report(place, finding.find(place, plan))
    if trace:
        traces.write(made, Path(trace))
    path = None
    if output or not json_:
        path = html.write(made, Path(output) if output else place.report(made.plan.digest))
    if json_:
        screen.print_json(made.model_dump(mode="json") | ({"page": str(path)} if path else {}))
        return
    if trace:
        click.echo(f"trace: {trace}", err=True)
    click.echo(str(path))
