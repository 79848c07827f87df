"""``vllm-builder smoke``: a wheel in use."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.stages.smoke.model import SmokeReport

_MARKS = {"passed": ("ok", "green"), "failed": ("X", "bold red"), "not tried": ("-", "yellow")}


@click.command()
@click.argument("wheel", type=click.Path(path_type=Path))
@click.option("--serve", is_flag=True, help="Also start the OpenAI server with a tiny model, and ask it")
@click.option("--full", is_flag=True, help="Install all requirements, not torch alone; --serve implies it")
@click.option("--python", metavar="PATH|X.Y", help="Python to install it for")
@click.option(
    "--torch", metavar="VERSION", help="torch to install [default: what the wheel was compiled against]"
)
@click.option(
    "--with",
    "further",
    multiple=True,
    metavar="REQUIREMENT",
    help="Install this besides, e.g. 'transformers<4.54'",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Make the environment here and leave it"
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Longest time for each step [default: 180 for an import, 900 for the server's start, 300 for an answer]",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="Port of the server [default: a free one]"
)
@click.option("--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Cache folder")
@click.option("--offline", is_flag=True, help="Install only from uv's cache and folders of this machine")
@click.option("-v", "--verbose", is_flag=True, help="Also show what the server prints")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def smoke(
    wheel: Path,
    serve: bool,
    full: bool,
    python: str | None,
    torch: str | None,
    further: tuple[str, ...],
    keep: Path | None,
    timeout: float | None,
    port: int | None,
    cache_dir: Path | None,
    offline: bool,
    verbose: bool,
    quiet: bool,
    json_: bool,
) -> None:
    """Install WHEEL in a fresh environment, import its extensions, compute and serve."""
    from vllm_builder.errors import BuilderError, Interrupted
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache
    from vllm_builder.stages.smoke import SmokeOptions, require
    from vllm_builder.stages.smoke import smoke as run

    limits = {
        name: timeout for name in ("import_limit", "start_limit", "answer_limit") if timeout is not None
    }
    options = SmokeOptions(
        wheel=wheel,
        serve=serve,
        full=full,
        python=python,
        torch=torch,
        further=further,
        keep=keep,
        port=port,
        offline=offline,
        **limits,
    )
    environ = dict(os.environ)
    cache = default_cache(gather({"cache_dir": cache_dir}, environ).resolve().settings)
    emit = screen.listener(verbose=verbose, quiet=quiet)
    try:
        report = run(options, cache, environ=environ, emit=emit)
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted.", next="Nothing is left of it; the same command begins anew."
        ) from None
    screen.finish()
    if not json_:
        _show(report)
        require(report)
        return
    found = report.model_dump(mode="json") | {"good": report.good}
    try:
        require(report)
    except BuilderError as error:
        screen.print_json(found | {"error": error.as_dict()})
        raise SystemExit(error.exit_code) from None
    screen.print_json(found)


def _show(report: SmokeReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vllm_builder.stages.smoke import summary

    console = Console()
    if not console.is_terminal:
        console.width = 200
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for trial in report.trials:
        mark, style = _MARKS[trial.outcome]
        seconds = screen.duration(trial.seconds) if trial.seconds else ""
        said = f"not tried: {trial.detail}" if trial.outcome == "not tried" else trial.detail
        table.add_row(Text(mark, style=style), trial.name, seconds, Text(said))
    with console.capture() as written:
        console.print(table)
    for line in written.get().splitlines():
        click.echo(line.rstrip())
    torch = f", torch {report.torch} ({report.torch_reason})" if report.torch else ""
    console.print(f"{report.version}, Python {report.python}{torch}", highlight=False, soft_wrap=True)
    console.print(f"{summary(report)} in {screen.duration(report.seconds)}", highlight=False)
    if report.kept:
        console.print(f"kept in {report.kept}", highlight=False, soft_wrap=True)
