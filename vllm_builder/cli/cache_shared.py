"""``vllm-builder cache shared``: whether the cache of several machines answers, and putting something there."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from vllm_builder.cache import Cache
from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.cache import cache_dir_option, cache_of, layers_of
from vllm_builder.errors import SettingsError, StorageFailed, StoreError
from vllm_builder.settings.layers import gather
from vllm_builder.shared import check_given, remote_of
from vllm_builder.shared.address import Address, parse
from vllm_builder.shared.artifacts import Kind, write_back
from vllm_builder.shared.probing import probe
from vllm_builder.stages.store import Entry, Store


@click.command()
@click.option("--shared-cache", metavar="URL|DIR", help="The cache to ask (default: the one of the settings)")
@click.option("--put", multiple=True, metavar="DIGEST", help="Also write this wheel or native layer to it")
@cache_dir_option
@json_option
def shared(shared_cache: str | None, put: tuple[str, ...], cache_dir: str | None, json_: bool) -> None:
    """Ask whether the shared cache answers: an entry is written to it and read back."""
    environ = dict(os.environ)
    layers = gather({"shared_cache": shared_cache}, environ)
    check_given(layers.command_line)
    address = layers.resolve().settings.shared_cache
    if address is None:
        raise SettingsError(
            "No shared cache is set.",
            next="Give --shared-cache, VLLM_BUILDER_SHARED_CACHE, or shared_cache in vllm-builder.toml.",
        )
    found = probe(parse(address), environ)
    if json_:
        screen.print_json(found.model_dump(mode="json"))
    if not found.reads:
        if json_:
            raise SystemExit(StorageFailed.exit_code)
        raise StorageFailed(
            f"The shared cache {found.address} cannot be used.",
            why=f"{found.problem[:1].upper()}{found.problem[1:]}.",
            next="Builds go on without it, with a warning.",
        )
    for digest in put:
        _put(parse(address), digest, cache_of(cache_dir), environ)
    if not json_:
        took = f"in {found.seconds * 1000:.0f} ms{', sealed with your key' if found.sealed else ''}"
        how = f"an entry was written and read back {took}" if found.writes else f"only read ({found.problem})"
        click.echo(f"{found.address}: {how}")


def _put(address: Address, prefix: str, where: Cache, environ: Mapping[str, str]) -> None:
    """Write one entry of the store, a wheel with the layer that it holds, to a shared cache."""
    emit = screen.listener()
    wheels, layers = Store(where.store), layers_of(where)
    found: list[tuple[Kind, Entry | None]] = [("wheel", wheels.find(prefix)), ("native", layers.find(prefix))]
    if (wheel := found[0][1]) is not None and (layer := wheel.record.native.get("digest")):
        found.append(("native", layers.get(layer, emit=emit)))
    chosen = [(kind, entry) for kind, entry in found if entry is not None]
    if not chosen:
        raise StoreError(
            f"The store has no entry {prefix}.", next="`vllm-builder cache list` shows the digests there are."
        )
    remote = remote_of(address, environ, emit)
    for kind, entry in chosen:
        if (problems := (wheels if kind == "wheel" else layers).intact(entry)) or not write_back(
            remote, kind, entry, emit=emit
        ):
            screen.finish()
            raise StorageFailed(
                f"{entry.digest[:12]} was not written to {address.shown}.",
                why=" ".join(problems) or f"{remote.problem}.",
            )
    screen.finish()
