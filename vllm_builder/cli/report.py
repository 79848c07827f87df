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
    page_to, trace_to = _places(output, trace)
    journal = finding.find(place, plan)
    made = finding.report(place, journal)
    if plan == "latest":
        made = made.model_copy(update={"remarks": (*made.remarks, *finding.passed_over(place, journal))})
    if trace_to:
        traces.write(made, trace_to)
    path = None
    if page_to or not json_:
        path = html.write(made, page_to or place.report(made.plan.digest))
    if json_:
        screen.print_json(made.model_dump(mode="json") | ({"page": str(path)} if path else {}))
        return
    for remark in made.remarks:
        click.echo(remark, err=True)
    if trace_to:
        click.echo(f"trace: {trace_to}", err=True)
    click.echo(str(path))


def _places(output: str | None, trace: str | None) -> tuple[Path | None, Path | None]:
    """The files that were named.

    Raises:
        BadParameter: a name is no file's.
        ContradictionError: both are the same, or one is a journal.
    """
    from vllm_builder.errors import ContradictionError

    page_to, trace_to = _file("-o", output), _file("--trace", trace)
    if page_to and page_to == trace_to:
        raise ContradictionError(
            f"-o and --trace name the same file, {page_to}.",
            why="The page would be written over the trace.",
            next="Name two files.",
        )
    for path in (page_to, trace_to):
        if path and path.name.endswith(".journal.jsonl"):
            raise ContradictionError(
                f"{path} is the journal of a build.",
                why="The report is made of it, and would be written over it.",
                next="Name another file.",
            )
    return page_to, trace_to


def _file(option: str, name: str | None) -> Path | None:
    if name is None:
        return None
    if name in {"", "-"}:
        raise click.BadParameter("Name a file (/dev/stdout is standard output).", param_hint=f"'{option}'")
    path = Path(name)
    # Of a link to a file, the file is written; a link to a pipe leads to no name.
    return path.resolve() if path.is_file() else path
