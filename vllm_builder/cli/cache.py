"""``vllm-builder cache``: the store of finished wheels, and the caches beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vllm_builder.cache import Cache
from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.groups import LazyGroup
from vllm_builder.errors import SettingsError, StoreError
from vllm_builder.stages.store import Entry, Store, VerifyReport


def cache_of(folder: str | None) -> Cache:
    import os

    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache

    layers = gather({"cache_dir": Path(folder) if folder else None}, dict(os.environ))
    return default_cache(layers.resolve().settings)


cache_dir_option = click.option("--cache-dir", metavar="DIR", help="Cache folder (default: the user cache)")


@click.group(cls=LazyGroup, lazy={"shared": ("vllm_builder.cli.cache_shared", "shared")})
def cache() -> None:
    """List, show, verify and prune what was built."""


@cache.command("list")
@cache_dir_option
@json_option
def list_(cache_dir: str | None, json_: bool) -> None:
    """The wheels in the store, newest first, and the native layers that serve others."""
    where = cache_of(cache_dir)
    found = Store(where.store).scan()
    layers = layers_of(where).scan()
    entries = sorted((e for e in found if isinstance(e, Entry)), key=lambda e: e.record.created, reverse=True)
    unreadable = [u for u in found if not isinstance(u, Entry)]
    if json_:
        kept = [e for e in layers if isinstance(e, Entry)]
        screen.print_json([e.as_dict() | {"kind": "wheel"} for e in entries] + [_layer_dict(e) for e in kept])
        return
    for broken in [*unreadable, *(u for u in layers if not isinstance(u, Entry))]:
        click.echo(f"{broken.digest[:12]}: {broken.error.what}", err=True)
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("plan", "version", "device", "torch", "size", "created", "wheel"):
        table.add_column(title, overflow="fold")
    for e in entries:
        r = e.record
        device = ", ".join(r.archs) or r.device
        table.add_row(
            e.digest[:12],
            r.version,
            device,
            r.torch or "-",
            screen.size(r.wheel.size),
            r.created,
            r.wheel.filename,
        )
    screen.console(width=200).print(table if entries else "The store is empty.")
    _list_layers([e for e in layers if isinstance(e, Entry)])


def layers_of(where: Cache) -> Store:
    return Store(where.native, noun="native layer")


def _layer_dict(entry: Entry) -> dict[str, object]:
    """Without the hashes of its hundreds of files."""
    facts = entry.as_dict()
    native = facts.get("native")
    if isinstance(native, dict):
        facts["native"] = {k: v for k, v in native.items() if k != "inputs"}
    return facts | {"kind": "native"}


def _list_layers(layers: list[Entry]) -> None:
    from rich.table import Table

    if not layers:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("native layer", "compiled for", "device", "torch", "size", "created", "compiled in"):
        table.add_column(title, overflow="fold")
    for e in sorted(layers, key=lambda e: e.record.created, reverse=True):
        r = e.record
        took = f"{r.compile.units} units, {screen.duration(r.compile.seconds)}"
        device = ", ".join(r.archs) or r.device
        row = (e.digest[:12], r.version, device, r.torch, screen.size(r.wheel.size), r.created, took)
        table.add_row(*row)
    console = screen.console(width=200)
    console.print()
    console.print(table)


@cache.command()
@click.argument("digest")
@cache_dir_option
@json_option
def show(digest: str, cache_dir: str | None, json_: bool) -> None:
    """The build record of one wheel (a prefix of the digest is enough)."""
    where = cache_of(cache_dir)
    root = where.store
    entry = Store(root).find(digest) or layers_of(where).find(digest)
    if entry is None:
        raise StoreError(
            f"There is no wheel of a plan {digest} in the store, nor a native layer.",
            why=f"Looked in {root}.",
            next="Try `cache list`.",
        )
    if json_:
        screen.print_json(entry.record.model_dump(mode="json") | {"path": str(entry.wheel)})
        return
    r = entry.record
    lines: list[tuple[str, Any]] = [
        ("native layer" if entry.folder.is_relative_to(where.native) else "wheel", entry.wheel),
        ("size", screen.size(r.wheel.size)),
        ("sha256", r.wheel.sha256),
        ("plan", r.digest),
        ("created", f"{r.created} by vllm-builder {r.builder}"),
        ("packed", f"in {screen.duration(r.compile.seconds)}, nothing compiled")
        if r.native.get("reused")
        else ("compiled", f"{r.compile.units} units in {screen.duration(r.compile.seconds)}"),
        *_native_lines(r.native),
        *((f"stage {k}", screen.duration(v)) for k, v in r.timings.items()),
        *((f"tool {k}", v) for k, v in r.tools.items()),
        *((d["what"], f"{d['value']}  ({d['origin']})") for d in r.plan.get("plan", {}).get("decisions", [])),
        *(("left out", part) for part in r.compile.left_out),
        *(("torch's own headers", f"{unit}  ({why})") for unit, why in r.compile.full_headers.items()),
    ]
    width = max(len(k) for k, _ in lines)
    for key, value in lines:
        click.echo(f"{key.ljust(width)}  {value}")


@cache.command()
@click.argument("digests", nargs=-1)
@cache_dir_option
@json_option
def verify(digests: tuple[str, ...], cache_dir: str | None, json_: bool) -> None:
    """Hash every wheel and native layer (or the named ones) again and check its record."""
    report = _verified(cache_of(cache_dir), digests)
    if json_:
        screen.print_json(report.as_dict())
    else:
        for item in report.checked:
            click.echo(f"{item.digest[:12]}  {item.state}  {item.folder}")
            for problem in item.problems:
                click.echo(f"              {problem}")
        click.echo(
            f"{len(report.checked)} entries, {len(report.damaged)} damaged, {screen.size(report.bytes_read)} read"
        )
    if not report.ok:
        if json_:
            raise SystemExit(StoreError.exit_code)
        raise StoreError(
            f"{len(report.damaged)} entries of the store are damaged.",
            next="The next `build` of such a plan sets the entry aside and builds it again.",
        )


def _verified(where: Cache, digests: tuple[str, ...]) -> VerifyReport:
    """Wheels and layers together; a prefix may name either."""
    wheels, layers = Store(where.store), layers_of(where)
    emit = screen.listener()
    if not digests:
        return wheels.verify(emit=emit).with_(layers.verify(emit=emit))
    of_layers = [d for d in digests if wheels.resolve(d) is None and layers.resolve(d) is not None]
    of_wheels = [d for d in digests if d not in of_layers]
    return wheels.verify(of_wheels, emit=emit).with_(layers.verify(of_layers, emit=emit))


def _native_lines(native: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a record says of the native layer."""
    if "inputs" in native:
        return [
            ("inputs", f"{len(native['inputs'].get('files', {}))} files"),
            ("host", native.get("host", "")),
        ]
    lines: list[tuple[str, Any]] = []
    if digest := native.get("digest"):
        how = "reused" if native.get("reused") else f"compiled, {native.get('reason', '')}"
        lines.append(("native layer", f"{digest} ({how})"))
    if native.get("reused") and (origin := native.get("compiled")):
        lines.append(
            (
                "compiled as",
                f"{origin['version']}, plan {origin['plan'][:12]}, on {origin['created']} by vllm-builder "
                f"{origin['builder']} on {origin['host']}",
            )
        )
    return lines


@cache.command()
@click.argument("digests", nargs=-1)
@click.option("--older-than", metavar="AGE", help="Not used for this long: 30d, 12h")
@click.option("--max-size", metavar="SIZE", help="Keep at most this much: 20GB")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Keep at most N")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Prune this cache instead of the wheels, without a rule all of it: "
    "downloads, git, surveys, memo, environments, toolkits, bundles, smoke, exports, ccache, sccache, passes, native "
    "(may be repeated)",
)
@click.option("--last", is_flag=True, help="Also the last good wheel of a plan")
@click.option("--dry-run", is_flag=True, help="Only say what would go")
@click.option(
    "--yes", is_flag=True, help="Without a rule or DIGESTS: do remove what was superseded or is damaged"
)
@cache_dir_option
@json_option
def prune(
    digests: tuple[str, ...],
    older_than: str | None,
    max_size: str | None,
    keep: int | None,
    kinds: tuple[str, ...],
    last: bool,
    dry_run: bool,
    yes: bool,
    cache_dir: str | None,
    json_: bool,
) -> None:
    """Make room, among all wheels or those of the plans DIGESTS. Native layers: --kind native.

    Without a rule, what no plan would be served: wheels that a forced build superseded, and damaged ones that
    were set aside. That is only listed, until --yes says to remove it.

    Never removes the last good wheel of a plan unless told to with --last.
    """
    where = cache_of(cache_dir)
    emit = screen.listener()
    rules: dict[str, Any] = {"older_than": _age(older_than), "max_size": _bytes(max_size), "keep": keep}
    listed = not (yes or dry_run or digests or kinds or last) and set(rules.values()) == {None}
    dry_run = dry_run or listed
    if kinds:
        from vllm_builder.stages.store import prune_cache

        report = prune_cache(where, kinds, **rules, dry_run=dry_run, emit=emit)
    else:
        report = Store(where.store).prune(
            **rules, only=digests or None, last_good=last, dry_run=dry_run, emit=emit
        )
        if set(rules.values()) == {None} and not digests:
            # What a forced build superseded, and what is damaged, serves nobody here either.
            report = report.with_(layers_of(where).prune(dry_run=dry_run, emit=emit))
    if json_:
        screen.print_json(report.as_dict())
        return
    verb = "would remove" if dry_run else "removed"
    for item in report.removed:
        click.echo(f"{verb} {item.path} ({screen.size(item.size)})")
    for kept in report.kept:
        click.echo(f"kept {kept.item.path}: {kept.reason}")
    click.echo(f"{verb} {len(report.removed)}, {screen.size(report.freed)}")
    if listed and report.removed:
        click.echo(
            "Nothing was removed: --yes removes these; --older-than, --max-size and --keep say more.",
            err=True,
        )


def _age(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if not match:
        raise SettingsError(
            f"--older-than {text!r} is not an age.", next="Write for example 30d, 12h or 90m."
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", text.strip())
    if not match:
        raise SettingsError(f"--max-size {text!r} is not a size.", next="Write for example 20GB or 500M.")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ["", "k", "M", "G", "T"].index(match[2]))
