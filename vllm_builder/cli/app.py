"""The commands. Each loads what it needs when it runs: a wheel from the store must come at once."""

from __future__ import annotations

from typing import Any

import click

from vllm_builder import __version__
from vllm_builder.cli import screen
from vllm_builder.cli.groups import LazyGroup
from vllm_builder.cli.options import PUBLISHING, given, settings_options

_LAZY = {
    "doctor": ("vllm_builder.cli.doctor", "doctor"),
    "patch": ("vllm_builder.cli.patch", "patch"),
    "vendor": ("vllm_builder.cli.vendor", "vendor"),
    "verify": ("vllm_builder.cli.verify", "verify"),
    "bundle": ("vllm_builder.cli.bundle", "bundle"),
    "inspect": ("vllm_builder.cli.inspect", "inspect"),
    "compare": ("vllm_builder.cli.compare", "compare"),
    "report": ("vllm_builder.cli.report", "report"),
    "smoke": ("vllm_builder.cli.smoke", "smoke"),
    "prove-lean": ("vllm_builder.cli.provelean", "prove_lean"),
    "index": ("vllm_builder.cli.index", "index"),
    "cache": ("vllm_builder.cli.cache", "cache"),
    "recipes": ("vllm_builder.cli.data", "recipes"),
    "patches": ("vllm_builder.cli.data", "patches"),
}


@click.group(
    cls=LazyGroup,
    lazy=_LAZY,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="vllm-builder")
def cli() -> None:
    """Build vLLM wheels from source: for your torch, your CUDA, your GPU."""


def _json(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    del ctx, parameter
    screen.use_json(value)
    return value


json_option = click.option(
    "--json",
    "json_",
    is_flag=True,
    callback=_json,
    # Eager, so that an error in another option is JSON too.
    is_eager=True,
    help="The result as one JSON document on stdout, events as JSON lines on stderr",
)
verbosity = [
    click.option("-v", "--verbose", is_flag=True, help="Also show what the tools print"),
    click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only"),
]


def _with_verbosity(function: Any) -> Any:
    for option in verbosity:
        function = option(function)
    return function


@cli.command()
@settings_options(version_required=False)
@_with_verbosity
@json_option
def build(json_: bool, verbose: bool, quiet: bool, **options: Any) -> None:
    """Build the wheel of VERSION, or take it from the store."""
    from vllm_builder.api import decide, obey
    from vllm_builder.settings.layers import gather

    emit = screen.listener(verbose=verbose, quiet=quiet)
    plan, settings = decide(gather(given(options), _environ()), emit=emit)
    result = obey(plan, settings, emit=emit)
    screen.finish()
    if json_:
        screen.print_json(
            result.model_dump(mode="json", exclude={"record"}) | {"record": _record(result.record)}
        )
        return
    if not quiet:
        wheel = result.record.wheel
        how = (
            f"from the shared cache {result.shared}"
            if result.shared
            else "from the store"
            if result.from_store
            else f"built in {screen.duration(result.seconds)}"
        )
        click.echo(
            f"{result.record.version}: {how}, {screen.size(wheel.size)}, sha256 {wheel.sha256}, plan {result.digest[:12]}",
            err=True,
        )
        for part in result.record.compile.left_out:
            click.echo(f"left out: {part}", err=True)
        if result.report is not None:
            click.echo(f"report: {result.report}", err=True)
        if result.published is not None:
            for one in result.published.wheels:
                where = f"{one.variant}: {', '.join(one.channels)}" if one.channels else one.filename
                click.echo(f"{one.outcome} in {result.published.to} ({where})", err=True)
    click.echo(str(result.wheel))


@cli.command()
@settings_options(version_required=False)
@click.option("--explain-against", metavar="DIGEST", help="Show which inputs differ from a plan in the store")
@_with_verbosity
@json_option
def plan(json_: bool, verbose: bool, quiet: bool, explain_against: str | None, **options: Any) -> None:
    """Show what build would do; writes nothing but the download cache."""
    from vllm_builder.api import decide
    from vllm_builder.cli.plan import explain, show
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache

    emit = screen.listener(verbose=verbose, quiet=quiet)
    made, settings = decide(gather(given(options), _environ()), emit=emit)
    if explain_against:
        explain(made, explain_against, default_cache(settings), json_)
    elif json_:
        from vllm_builder.stages.native.forecasting import forecast

        native = forecast(made, default_cache(settings), reuse=settings.reuse and not settings.force)
        screen.print_json(made.as_dict() | {"native": native.model_dump(mode="json")})
    else:
        show(made, settings, default_cache(settings))


@cli.command()
@settings_options(without=("out", "shared_cache", *PUBLISHING), version_required=False)
@click.option("--dest", required=True, metavar="DIR", help="Where the tree is put; must not exist")
@_with_verbosity
@json_option
def source(json_: bool, verbose: bool, quiet: bool, dest: str, **options: Any) -> None:
    """Put the patched tree of VERSION at --dest, ready to be built by hand."""
    from vllm_builder.cli.source import hand_over
    from vllm_builder.settings.layers import gather

    emit = screen.listener(verbose=verbose, quiet=quiet)
    hand_over(gather(given(options), _environ()), dest, json_, emit)


@cli.command()
@settings_options(without=("out", "force", "shared_cache", *PUBLISHING), version_required=False)
@_with_verbosity
@json_option
def environment(json_: bool, verbose: bool, quiet: bool, **options: Any) -> None:
    """Make the locked build environment of VERSION and print its Python."""
    from vllm_builder.api import decide
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.environment import prepare
    from vllm_builder.stages.plan.steps import default_cache

    emit = screen.listener(verbose=verbose, quiet=quiet)
    environ = _environ()
    made, settings = decide(gather(given(options), environ), emit=emit)
    folder = default_cache(settings).environments
    ready = prepare(made.environment, folder, environ=environ, offline=settings.offline, emit=emit)
    screen.finish()
    if json_:
        screen.print_json(ready.model_dump(mode="json"))
    else:
        click.echo(str(ready.python))


def _environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def _record(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = record.model_dump(mode="json", exclude={"plan"})
    return found
