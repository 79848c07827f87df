"""``vllm-builder verify``: is a wheel what was asked for?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vllm_builder.stages.verify.model import Finding, Report

_MARKS = {"error": ("X", "bold red"), "warning": ("!", "yellow"), "info": ("-", "dim")}
_WIDTH = 110
"""Columns of what is piped; a terminal has its own width."""


@click.command()
@click.argument("wheel", metavar="WHEEL|URL")
@click.option(
    "--arch", multiple=True, metavar="SM", help="GPUs that it must serve: sm_100, 9.0, native (also several)"
)
@click.option(
    "--torch",
    default="",
    metavar="VERSION|PATH",
    help="The torch that it must go with: a version, or an installed one",
)
@click.option("--against", metavar="WHEEL", help="A wheel of which it must have lost nothing")
@click.option(
    "--max-glibc", default="", metavar="X.Y", help="The oldest system that it must run on, e.g. 2.28"
)
@click.option("--max-size", default="", metavar="SIZE", help="What the file may have, e.g. 400M")
@click.option("--strict", is_flag=True, help="Warnings fail too (exit code 82)")
@click.option("--offline", is_flag=True, help="Fetch nothing; what is not at hand is not checked")
@click.option("--cache-dir", metavar="DIR", help="The cache folder")
@click.option("-v", "--verbose", is_flag=True, help="Show why each remark matters, too")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def verify(
    wheel: str,
    arch: tuple[str, ...],
    torch: str,
    against: str | None,
    max_glibc: str,
    max_size: str,
    strict: bool,
    offline: bool,
    cache_dir: str | None,
    verbose: bool,
    quiet: bool,
    json_: bool,
) -> None:
    """Check that a wheel is what was asked for: extensions, GPU code, symbols, requirements, tags.

    What is expected comes from the wheel's own build record, else from the release that its version names, and
    from the options. Nothing of the wheel is run, and no GPU is needed. Exit code: 0 good, 81 an error, 82 a warning
    with --strict, 80 no readable wheel.
    """
    from vllm_builder.errors import VerifyFailed, VerifyWarned
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.archs import parse_archs
    from vllm_builder.stages.plan.steps import default_cache
    from vllm_builder.stages.verify.verifying import judge
    from vllm_builder.stages.verify.verifying import verify as check

    environ = dict(os.environ)
    emit = screen.listener(quiet=quiet)
    layers = gather({"cache_dir": Path(cache_dir) if cache_dir else None}, environ)
    report = check(
        wheel,
        cache=default_cache(layers.resolve().settings),
        archs=parse_archs(
            [word for text in arch for word in text.replace(";", ",").split(",") if word], environ
        ),
        torch=torch,
        against=against,
        max_glibc=_version(max_glibc),
        max_size=_size(max_size),
        environ=environ,
        offline=offline,
        emit=emit,
    )
    screen.finish()
    if json_:
        screen.print_json(report.model_dump(mode="json") | {"good": report.good})
    else:
        show(report, verbose=verbose)
    try:
        judge(report, strict=strict)
    except (VerifyFailed, VerifyWarned) as error:
        # The report has said it all: on standard output there is one document.
        if not json_ and not quiet:
            click.echo(f"error: {error.what}", err=True)
        raise SystemExit(error.exit_code) from None


def show(report: Report, *, verbose: bool = False) -> None:
    """Print a report for a person: the worst first."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(highlight=False, width=width, emoji=False, markup=False)
    with console.capture() as written:
        console.print(Path(report.wheel).name, style="bold", soft_wrap=True)
        torch = f"; torch {report.torch}" if report.torch else ""
        console.print(f"held against {report.expected or 'nothing that is known of it'}{torch}", style="dim")
        if report.answers:
            console.print()
            console.print(_answers(report))
        if report.findings:
            console.print()
            console.print(findings_table(report.findings, verbose=verbose))
        console.print()
        _verdict(console, report)
    for line in written.get().splitlines():
        click.echo(line.rstrip())


def findings_table(findings: Iterable[Finding], *, verbose: bool) -> Table:
    """What is wrong, where, why it matters, and what to do; remarks in full where ``verbose``."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    for overflow in ("ellipsis", "ellipsis", "fold"):
        table.add_column(overflow=overflow)
    for finding in findings:
        mark, style = _MARKS[finding.severity]
        table.add_row(Text(mark, style=style), Text(finding.check, style=style), Text(finding.what))
        if finding.severity == "info" and not verbose:
            if finding.check == "not-checked":  # what to do about it matters more than that
                table.add_row("", "", Text(finding.why, style="dim"))
            continue
        for label, said in (("", finding.where), ("", finding.why), ("-> ", finding.cure)):
            if said:
                table.add_row("", "", Text(label + said, style="dim"))
    return table


def _answers(report: Report) -> Table:
    """Units of each extension by their answer: native / JIT / dead, one column per GPU."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("units: native / JIT / dead")
    for gpu in report.answers:
        table.add_column(gpu, justify="right")
    modules = dict.fromkeys(module for given in report.answers.values() for module in given)
    for module in modules:
        cells = []
        for given in report.answers.values():
            counts = given.get(module, {})
            cells.append(" / ".join(str(counts.get(one, 0)) for one in ("native", "jit", "dead")))
        table.add_row(Path(module).name.partition(".")[0], *cells)
    return table


def _verdict(console: Console, report: Report) -> None:
    from vllm_builder.stages.verify.verifying import tally

    skipped = [
        f.what.removeprefix("Not checked: ").rstrip(".") for f in report.findings if f.check == "not-checked"
    ]
    console.print(f"checked: {', '.join(report.checks)} ({report.seconds:.1f} s)", style="dim")
    if skipped:
        console.print(f"not checked: {', '.join(skipped)}", style="yellow")
    good = "good" if report.good else "NOT what was asked for"
    console.print(f"{good}: {tally(report)}", style="bold green" if report.good else "bold red")


def _size(text: str) -> int:
    """``400M`` -> bytes.

    Raises:
        SettingsError
    """
    import re

    from vllm_builder.errors import SettingsError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?", text.strip().lower())
    if not text:
        return 0
    if match is None or float(match[1]) <= 0:
        raise SettingsError(
            f"--max-size {text!r} is no size.", next="Write for example 400M, 1.5G or 419430400."
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmg".index(match[2] or " "))


def _version(text: str) -> str:
    """``2.28`` as it is.

    Raises:
        SettingsError
    """
    import re

    from vllm_builder.errors import SettingsError

    if text and not re.fullmatch(r"\d+\.\d+", text):
        raise SettingsError(f"--max-glibc {text!r} is no version of glibc.", next="Write for example 2.28.")
    return text
