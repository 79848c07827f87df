"""``vllm-builder doctor``: the machine at a glance."""

from __future__ import annotations

import os
from typing import Any

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.options import PUBLISHING, given, settings_options
from vllm_builder.doctor.model import Check

_MARKS = {"good": ("ok", "green"), "note": ("-", "dim"), "warning": ("!", "yellow"), "problem": ("X", "red")}


@click.command()
@settings_options(
    without=("out", "force", "bundle", "allow_differences", *PUBLISHING), version_required=False
)
@json_option
def doctor(json_: bool, **options: Any) -> None:
    """What this machine has for a build, and what to do about what it lacks; with VERSION also a plan."""
    from vllm_builder.doctor import examine_machine
    from vllm_builder.settings.layers import gather

    environ = dict(os.environ)
    version = options.get("version")
    emit = screen.listener(quiet=not screen.as_json())
    report = examine_machine(gather(given(options), environ), environ, version=version, emit=emit)
    screen.finish()
    if json_:
        checks = [check.model_dump(mode="json") for check in report.checks]
        screen.print_json({"healthy": report.healthy, "checks": checks})
    else:
        _show(report.checks)
    if not report.healthy:
        raise SystemExit(1)


def _show(checks: tuple[Check, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.verdict]
        table.add_row(Text(mark, style=style), check.name, Text(check.found))
        if check.cure:
            table.add_row("", "", Text(f"-> {check.cure}", style="dim"))
    screen.console().print(table)
