"""``vllm-builder cache``: the store of finished wheels, and the caches beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from vllm_builder.cache import Cache
from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.errors import SettingsError, StoreError
from vllm_builder.stages.store import Entry, Store


def _cache(folder: str | None) -> Cache:
    import os

    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache

    layers = gather({"cache_dir": Path(folder) if folder else None}, dict(os.environ))
    return default_cache(layers.resolve().settings)


_cache_dir = click.option("--cache-dir", metavar="DIR", help="Cache folder (default: the user cache)")


@click.group()
def cache() -> None:
    """List, show, verify and prune what was built."""


@cache.command("list")
@_cache_dir
@json_option
def list_(cache_dir: str | None, json_: bool) -> None:
    """The wheels in the store, newest first."""
    found = Store(_cache(cache_dir).store).scan()
    entries = sorted((e for e in found if isinstance(e, Entry)), key=lambda e: e.record.created, reverse=True)
    unreadable = [u for u in found if not isinstance(u, Entry)]
    if json_:
        screen.print_json([e.as_dict() for e in entries])
        return
    for broken in unreadable:
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


@cache.command()
@click.argument("digest")
@_cache_dir
@json_option
def show(digest: str, cache_dir: str | None, json_: bool) -> None:
    """The build record of one wheel (a prefix of the digest is enough)."""
    root = _cache(cache_dir).store
    entry = Store(root).find(digest)
    if entry is None:
        raise StoreError(
            f"There is no wheel of a plan {digest} in the store.",
            why=f"Looked in {root}.",
            next="Try `cache list`.",
        )
    if json_:
        screen.print_json(entry.record.model_dump(mode="json") | {"path": str(entry.wheel)})
        return
    r = entry.record
    lines: list[tuple[str, Any]] = [
        ("wheel", entry.wheel),
        ("size", screen.size(r.wheel.size)),
        ("sha256", r.wheel.sha256),
        ("plan", r.digest),
        ("created", f"{r.created} by vllm-builder {r.builder}"),
        ("compiled", f"{r.compile.units} units in {screen.duration(r.compile.seconds)}"),
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
@_cache_dir
@json_option
def verify(digests: tuple[str, ...], cache_dir: str | None, json_: bool) -> None:
    """Hash every wheel (or the named ones) again and check its record."""
    report = Store(_cache(cache_dir).store).verify(digests or None, emit=screen.listener())
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
    "downloads, git, surveys, memo, environments, toolkits, bundles, smoke, exports, ccache, sccache (may be repeated)",
)
@click.option("--last", is_flag=True, help="Also the last good wheel of a plan")
@click.option("--dry-run", is_flag=True, help="Only say what would go")
@click.option(
    "--yes", is_flag=True, help="Without a rule or DIGESTS: do remove what was superseded or is damaged"
)
@_cache_dir
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
    """Make room, among all wheels or those of the plans DIGESTS.

    Without a rule, what no plan would be served: wheels that a forced build superseded, and damaged ones that
    were set aside. That is only listed, until --yes says to remove it.

    Never removes the last good wheel of a plan unless told to with --last.
    """
    where = _cache(cache_dir)
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
