"""``vllm-builder compare``: what changed between two wheels."""

from __future__ import annotations

from itertools import chain, groupby, islice, zip_longest
from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option

if TYPE_CHECKING:
    from vllm_builder.stages.verify.model import Comparison, Difference

_SHOWN = 12
"""Lines of one kind; --json has all of them."""
_TITLES = {
    "name": "name", "version": "version", "tag": "tags", "requirement": "requirements", "metadata": "metadata",
    "record": "build record", "readable": "libraries that cannot be read",
    "floor": "manylinux floor", "arch": "GPU code", "cuda": "CUDA runtime",
    "torch": "torch's stable ABI, oldest release", "needed": "needed libraries", "rpath": "RPATH",
    "import": "symbols wanted", "export": "symbols defined", "member": "files", "mode": "file modes",
    "section": "sections of libraries", "size": "bytes unpacked", "method": "compression methods",
    "timestamp": "timestamps", "order": "order of members", "container": "zip file",
}  # fmt: skip


@click.command()
@click.argument("wheel_a")
@click.argument("wheel_b")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only; the exit code says the result")
@json_option
def compare(wheel_a: str, wheel_b: str, quiet: bool, json_: bool) -> None:
    """Show what differs between two wheels, files or addresses.

    Lines that begin with - are of WHEEL_A alone, those with + of WHEEL_B alone.

    Exit code 0: the same content (the zip files may still differ, which is then said); 1: different.
    """
    from vllm_builder.stages.verify.comparing import compare as held

    emit = screen.listener(quiet=quiet)
    found = held(wheel_a, wheel_b, emit=emit)
    screen.finish()
    if json_:
        screen.print_json(found.model_dump(mode="json"))
    elif not quiet:
        show(found)
    if not found.same_content:
        raise SystemExit(1)


def show(found: Comparison) -> None:
    """Print a comparison for a person."""
    for kind, group in groupby(found.differences, key=lambda difference: difference.kind):
        differences = list(group)
        shown = _some(differences)
        count = f" ({len(differences)})" if len(differences) > len(shown) else ""
        click.echo(f"{_TITLES[kind]}{count}")
        for difference in shown:
            click.echo(f"  {_line(difference)}")
        if len(differences) > len(shown):
            click.echo(f"  ... and {len(differences) - len(shown)} more; --json lists them all")
    if found.identical:
        click.echo("identical: the same bytes")
    elif found.same_content:
        click.echo("the same content, in zip files that differ")
    else:
        click.echo("different")


def _some(differences: list[Difference]) -> list[Difference]:
    """A few of each sort (gone, new, changed), in their order: many of one must not hide the others."""
    sorts: dict[tuple[bool, bool], list[Difference]] = {}
    for difference in differences:
        sorts.setdefault((bool(difference.a), bool(difference.b)), []).append(difference)
    in_turn = (one for one in chain.from_iterable(zip_longest(*sorts.values())) if one is not None)
    chosen = {id(one) for one in islice(in_turn, _SHOWN)}
    return [difference for difference in differences if id(difference) in chosen]


def _line(difference: Difference) -> str:
    where, a, b = difference.where, _short(difference.a), _short(difference.b)
    if a and b:
        return f"{where}: {a} -> {b}"
    return f"- {where}: {a}" if a else f"+ {where}: {b}" if b else where


def _short(value: str) -> str:
    """One line of a value that may be a whole license."""
    first, newline, _ = value.partition("\n")
    return f"{first[:200]} ..." if newline or len(first) > 200 else first
