"""Showing a plan."""

from __future__ import annotations

import click

from vllm_builder.cache import Cache
from vllm_builder.cli import screen
from vllm_builder.errors import StoreError
from vllm_builder.settings.model import Settings
from vllm_builder.shared.address import parse
from vllm_builder.stages.native.forecasting import forecast
from vllm_builder.stages.plan.explain import differences
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.store import Store


def show(plan: Plan, settings: Settings, cache: Cache) -> None:
    """The plan as a table: what, value, and where the value came from."""
    from rich.table import Table
    from rich.text import Text

    console = screen.console(width=200)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for title in ("what", "value", "because of"):
        table.add_column(title, overflow="fold")
    for decision in plan.decisions:
        table.add_row(Text(decision.what), Text(decision.value), Text(decision.origin, style="dim"))
    console.print(table)
    for note in plan.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    entry = Store(cache.store).find(plan.digest)
    console.print()
    console.print(f"wheel    vllm {plan.compile.version}", highlight=False)
    console.print(f"digest   {plan.digest}", highlight=False, soft_wrap=True)
    native = forecast(plan, cache, reuse=settings.reuse and not settings.force)
    state = f"in the store since {entry.record.created}" if entry else "would be built"
    console.print(f"store    {state}", highlight=False)
    console.print(f"native   {native.line()}", highlight=False, soft_wrap=True)
    if settings.shared_cache is not None:
        console.print(f"shared   {parse(settings.shared_cache).shown}", highlight=False, soft_wrap=True)
    console.print(
        f"folders  workspace {settings.workspace}, cache {cache.root}", highlight=False, soft_wrap=True
    )


def explain(plan: Plan, digest: str, cache: Cache, json_: bool) -> None:
    """Which inputs differ from a plan whose wheel is in the store."""
    store = Store(cache.store)
    entry = store.find(digest)
    if entry is None:
        raise StoreError(
            f"There is no wheel of a plan {digest} in the store.",
            why=f"Looked in {cache.store}.",
            next="`vllm-builder cache list` shows the digests.",
        )
    found = differences(plan.as_dict()["inputs"], entry.record.plan.get("inputs", {}))
    if json_:
        screen.print_json(
            {
                "digest": plan.digest,
                "against": entry.digest,
                "differences": [d.model_dump() for d in found],
            }
        )
        return
    if not found:
        click.echo(f"No input differs: this is the plan {entry.digest[:12]}.")
        return
    click.echo(f"{len(found)} inputs differ between this plan ({plan.digest[:12]}) and {entry.digest[:12]}:")
    for difference in found:
        click.echo(f"  {difference.path}")
        click.echo(f"    this:  {_side(difference.this)}")
        click.echo(f"    other: {_side(difference.other)}")


def _side(value: str | None) -> str:
    return "(absent)" if value is None else value
