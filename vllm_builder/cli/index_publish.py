"""``vllm-builder index publish``."""

from __future__ import annotations

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import opened, to_option


@click.command()
@click.argument("wheels", metavar="WHEEL...", nargs=-1, required=True)
@to_option
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="nightly, release or a name of your own; several",
)
@click.option("--variant", default="", metavar="NAME", help="cu130, cpu; without it, what the wheel says")
@click.option(
    "--group", default="", metavar="NAME", help="Appear together with the other variants, or not at all"
)
@click.option(
    "--expect", default="", metavar="VARIANT,...", help="The variants of the group: cu129,cu130,cpu"
)
@click.option(
    "--no-verify", default="", metavar="REASON", help="Do not verify; the reason is kept in the index"
)
@click.option("--sign-key", default=None, metavar="FILE", help="Sign the provenance with this private key")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def publish(
    wheels: tuple[str, ...],
    to: str,
    channels: tuple[str, ...],
    variant: str,
    group: str,
    expect: str,
    no_verify: str,
    sign_key: str | None,
    quiet: bool,
    json_: bool,
) -> None:
    """Verify wheels and put them into an index: all of them appear, or none.

    The same command again changes nothing. Another content under a name that is taken is refused.
    """
    from pathlib import Path

    from vllm_builder.index.candidates import read_candidate
    from vllm_builder.index.publishing import publish as put

    del no_verify, sign_key  # of the publish stage, which verifies and signs
    emit = screen.listener(quiet=quiet)
    candidates = [read_candidate(Path(one), channels=channels, variant=variant) for one in wheels]
    expects = [word.strip() for word in expect.split(",") if word.strip()]
    done = put(opened(to, create=True), candidates, group=group, expects=expects, emit=emit)
    screen.finish()
    if json_:
        screen.print_json([one.model_dump(mode="json") for one in done])
        return
    for one in done:
        waits = f", waits for {', '.join(one.waits_for)}" if one.waits_for else ""
        click.echo(f"{one.outcome}{waits}: {one.filename} ({one.variant}; {', '.join(one.channels)})")
