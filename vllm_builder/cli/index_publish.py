"""``vllm-builder index publish``."""

from __future__ import annotations

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.index import to_option


@click.command()
@click.argument("wheels", metavar="WHEEL...", nargs=-1, required=True)
@to_option
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="nightly, release or a name of your own; several (default: release, nightly for a pre-release)",
)
@click.option("--variant", default="", metavar="NAME", help="cu130, cpu; without it, what the wheel says")
@click.option(
    "--group", default="", metavar="NAME", help="Appear together with the other variants, or not at all"
)
@click.option(
    "--expect", default="", metavar="VARIANT,...", help="The variants of the group: cu129,cu130,cpu"
)
@click.option(
    "--no-verify", default=None, metavar="REASON", help="Do not verify; the reason is kept in the index"
)
@click.option("--sign-key", default=None, metavar="FILE", help="Sign the provenance with this private key")
@click.option("--builder-id", default="", metavar="URI", help="Who built, for the provenance")
@click.option("--no-provenance", is_flag=True, help="Put no provenance beside the wheels")
@click.option("--simple-url", default="", metavar="URL", help="Of an upload server: where its pages are")
@click.option("--offline", is_flag=True, help="Fetch nothing for verifying")
@click.option("--cache-dir", metavar="DIR", help="The cache folder")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def publish(
    wheels: tuple[str, ...],
    to: str,
    channels: tuple[str, ...],
    variant: str,
    group: str,
    expect: str,
    no_verify: str | None,
    sign_key: str | None,
    builder_id: str,
    no_provenance: bool,
    simple_url: str,
    offline: bool,
    cache_dir: str | None,
    quiet: bool,
    json_: bool,
) -> None:
    """Verify wheels and put them into an index: all of them appear, or none.

    --to is a folder, s3://BUCKET/PREFIX, or the https:// address of an upload server (devpi, pypiserver, ...), where
    {channel} and {variant} stand for the wheel's own. Credentials come from VLLM_BUILDER_PUBLISH_USERNAME and _PASSWORD,
    twine's and uv's variables, ~/.pypirc, the keyring or netrc; an encrypted key is opened with
    VLLM_BUILDER_SIGN_PASSPHRASE.

    The same command again changes nothing. Another content under a name that is taken is refused.
    """
    import os
    from pathlib import Path

    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache
    from vllm_builder.stages.publish import PublishRequest
    from vllm_builder.stages.publish import publish as put

    environ = dict(os.environ)
    layers = gather({"cache_dir": Path(cache_dir) if cache_dir else None}, environ)
    request = PublishRequest(
        wheels=tuple(Path(one) for one in wheels),
        to=to,
        channels=channels,
        variant=variant,
        group=group,
        expects=tuple(word.strip() for word in expect.split(",") if word.strip()),
        no_verify=no_verify,
        sign_key=Path(sign_key) if sign_key else None,
        builder_id=builder_id,
        provenance=not no_provenance,
        simple_url=simple_url,
        offline=offline,
    )
    done = put(
        request,
        cache=default_cache(layers.resolve().settings),
        environ=environ,
        emit=screen.listener(quiet=quiet),
    )
    screen.finish()
    if json_:
        screen.print_json(done.model_dump(mode="json"))
        return
    for one in done.wheels:
        waits = f", waits for {', '.join(one.waits_for)}" if one.waits_for else ""
        proof = "" if one.checked is None else f"; {one.checked.result}, provenance {one.provenance}"
        where = f" [{one.variant}]" if one.variant else ""
        where += f" in {', '.join(one.channels)}" if one.channels else ""
        click.echo(f"{one.outcome}{waits}: {one.filename}{where}{proof}")
