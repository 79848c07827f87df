"""``vllm-builder index serve``: an index in a folder over HTTP, for trying out."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option


@click.command()
@click.argument("folder")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all that there are",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Default: 8080 (80 for nginx); 0 takes any that is free"
)
@click.option("--nginx-config", is_flag=True, help="Print what nginx needs to serve FOLDER, and end")
@click.option("-q", "--quiet", is_flag=True, help="Do not show the requests")
@json_option
def serve(folder: str, host: str, port: int | None, nginx_config: bool, quiet: bool, json_: bool) -> None:
    """Serve the index in FOLDER to pip, uv and browsers, until Ctrl-C. For trying out: without TLS and passwords.

    The address is the first line on stdout, the requests follow on stderr.
    """
    import sys
    from functools import partial

    from vllm_builder.index import serving

    _not_a_store(folder)
    if nginx_config:
        click.echo(serving.nginx_config(Path(folder), listen=str(port or 80)), nl=False)
        return
    server = serving.Server(
        Path(folder),
        host=host,
        port=8080 if port is None else port,
        log=(lambda line: None) if quiet else partial(click.echo, err=True),
    )
    try:
        if json_:
            screen.print_json({"url": server.url, "folder": folder})
        else:
            click.echo(server.url)
        sys.stdout.flush()
        if not quiet and not json_:
            click.echo(
                f"Serving {folder}; Ctrl-C ends it. {server.url} has the line to type for each wheel:",
                err=True,
            )
            for one in serving.addresses(Path(folder)):
                click.echo(f"  pip install NAME==VERSION --extra-index-url {server.url}{one}", err=True)
        server.run()
    except KeyboardInterrupt:
        pass  # how a person ends it


def _not_a_store(folder: str) -> None:
    """
    Raises:
        SettingsError: it is an address.
    """
    from vllm_builder.errors import SettingsError

    if "://" in folder:
        raise SettingsError(
            f"{folder} is no folder.",
            why="An index on an object store is served by the store itself.",
            next="Give pip and uv the store's own address of that bucket and prefix, with json/CHANNEL/VARIANT/ behind it; "
            "to look at a copy: copy it into a folder, and serve that.",
        )
