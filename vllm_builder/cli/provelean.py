"""``vllm-builder prove-lean``: lean headers leave the code as it is."""

from __future__ import annotations

import os
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option, verbosity
from vllm_builder.cli.options import PUBLISHING, given, settings_options

if TYPE_CHECKING:
    from vllm_builder.lean.model import LeanProof, UnitProof

_SHOWN = 5


@click.command("prove-lean")
@settings_options(
    without=("out", "force", "jobs", "compiler_cache", "bundle", "allow_differences", *PUBLISHING)
)
@click.option("--all", "all_", is_flag=True, help="Every unit, not a sample")
@click.option(
    "--units",
    type=click.IntRange(min=1),
    metavar="N",
    help="Size of the sample: units that include the header [default: 8]",
)
@click.option(
    "--unit",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only units that match, e.g. 'csrc/moe/*' (may be repeated)",
)
@verbosity[0]
@verbosity[1]
@json_option
def prove_lean(
    all_: bool,
    units: int | None,
    patterns: tuple[str, ...],
    json_: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Compile units of VERSION with lean headers and as upstream does, and compare what comes out.

    PTX must be the same bytes; the preprocessed text the same but for whole headers that are left out; each function
    of the host the same. Nothing is stored. Units are compiled one at a time, without a compiler cache.

    Exit code 0: the same; 1: something differs, a unit does not compile at all, or no unit could be compared.
    """
    from vllm_builder.api import decide, workspace_of
    from vllm_builder.cache import Workspace
    from vllm_builder.errors import ContradictionError
    from vllm_builder.lean.proving import SAMPLE, prove
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.steps import default_cache, source_request

    if all_ and units:
        raise ContradictionError(
            "--all and --units exclude each other.",
            why="One asks for every unit, the other for some.",
            next="Leave one of the two out.",
        )
    emit = screen.listener(verbose=verbose, quiet=quiet)
    plan, settings = decide(gather(given(options), dict(os.environ)), emit=emit)
    found = prove(
        plan,
        cache=default_cache(settings),
        # In a folder of its own: the tree of a build that waits to be gone on with stays as it is.
        workspace=Workspace(workspace_of(settings).root / "prove-lean"),
        environ=dict(os.environ),
        request=source_request(settings, plan.environment.indexes),
        externals=settings.externals,
        offline=settings.offline,
        count=0 if all_ else units or SAMPLE,
        patterns=patterns,
        emit=emit,
    )
    screen.finish()
    if json_:
        screen.print_json(found.model_dump(mode="json") | {"good": found.good})
    elif not quiet:
        show(found)
    if not found.good:
        raise SystemExit(1)


def show(found: LeanProof) -> None:
    """Print a proof for a person."""
    from rich.table import Table

    table = Table(title=f"{found.version}, torch {found.torch}, {', '.join(found.compilers)}", box=None)
    for name in ("unit", "upstream s", "lean s", "ratio", "PTX", "host", "result"):
        table.add_column(name, justify="left" if name in {"unit", "result"} else "right", overflow="fold")
    for proof in found.units:
        table.add_row(*_row(proof))
    screen.console().print(table)
    for proof in found.units:
        for line in (*proof.differences[:_SHOWN], *([proof.error] if proof.error else [])):
            click.echo(f"{proof.unit}: {line}")
    ratios = sorted(r for p in found.units if p.verdict == "same" and (r := p.ratio))
    if ratios:
        click.echo(
            f"CPU time, upstream / lean: min {ratios[0]:.2f}, median {median(ratios):.2f}, max {ratios[-1]:.2f}"
        )
    counts = {verdict: sum(p.verdict == verdict for p in found.units) for verdict in
              ("same", "untouched", "falls back", "different", "failed")}  # fmt: skip
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    click.echo(f"{len(found.units)} of {found.total} units: {told}")
    if not found.good and not counts["different"] + counts["failed"]:
        click.echo(
            "Nothing is proven: of these units none is compiled with lean headers. Choose others, or --all."
        )


def _row(proof: UnitProof) -> tuple[str, ...]:
    if not proof.full or not proof.lean:
        return (proof.unit, "", "", "", "", "", proof.verdict)
    host = f"{proof.functions - len(proof.inlined_otherwise)} of {proof.functions}" if proof.functions else ""
    return (
        proof.unit,
        f"{proof.full.cpu:.1f}",
        f"{proof.lean.cpu:.1f}",
        f"{proof.ratio:.2f}" if proof.ratio else "",
        str(len(proof.device_code) or ""),
        host,
        proof.verdict,
    )
