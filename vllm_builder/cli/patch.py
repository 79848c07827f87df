"""``vllm-builder patch``: apply patch sets to a tree that lies on disk already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.options import given
from vllm_builder.errors import SettingsError, SourceError, did_you_mean
from vllm_builder.resources import shipped

if TYPE_CHECKING:
    from vllm_builder.stages.patch.operations import PatchSet
    from vllm_builder.stages.patch.report import PatchReport


_FACTS = ("torch", "setuptools", "cuda", "numa", "torch_cuda")
"""What a plan knows, whether a set asks for it or not."""


@click.command()
@click.argument("dir", type=click.Path(path_type=Path))
@click.option("--release", metavar="V", help="The tree's release (default: what its PKG-INFO says)")
@click.option(
    "--device", default="cuda", show_default=True, metavar="cuda|cpu|empty", help="Which device's patches"
)
@click.option(
    "--patches", multiple=True, metavar="DIR", help="Folder of further patch sets (may be repeated)"
)
@click.option(
    "--with-patch", multiple=True, metavar="NAME", help="Also apply this opt-in set (may be repeated)"
)
@click.option("--without-patch", multiple=True, metavar="NAME", help="Leave this set out (may be repeated)")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A value that a set asks for"
)
@click.option(
    "--fact",
    "facts",
    multiple=True,
    metavar="NAME=VALUE",
    help="What is known of the machine: setuptools=79.0.1, numa=false, cuda=13.0 (default: found out here)",
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if something would change")
@click.option("--diff", is_flag=True, help="Show the changes as a diff")
@json_option
@click.pass_context
def patch(
    ctx: click.Context,
    dir: Path,  # noqa: A002  # the name that the help shows
    release: str | None,
    device: str,
    patches: tuple[str, ...],
    with_patch: tuple[str, ...],
    without_patch: tuple[str, ...],
    parameters: tuple[str, ...],
    facts: tuple[str, ...],
    check: bool,
    diff: bool,
    json_: bool,
) -> None:
    """Apply the patch sets to the tree in DIR. A second time changes nothing."""
    from vllm_builder.stages.patch import apply, load, select

    if not dir.is_dir():
        raise SourceError(f"{dir} is not a folder.", next="Give the folder of a vLLM tree.")
    if device not in ("cuda", "cpu", "empty"):
        raise SettingsError(f"--device {device!r} is not known.", next="Use cuda, cpu or empty.")
    release = (release or _release_of(dir)).removeprefix("v")
    sets = load((shipped("patches"), *map(Path, patches)))
    _check_facts(facts, sets)
    selection = select(
        sets,
        release=release,
        device=device,  # type: ignore[arg-type]  # checked above
        facts={**_facts(facts, device), **given({"parameters": parameters}).get("parameters", {})},
        enable=with_patch,
        disable=without_patch,
    )
    report = apply(selection, dir, check=check, emit=screen.listener())
    if json_:
        screen.print_json(
            report.model_dump(mode="json") | {"release": release, "device": device, "check": check}
        )
    else:
        _show(report, diff, check)
    if check and any(entry.status == "changed" for entry in report.entries):
        ctx.exit(1)


def _show(report: PatchReport, diff: bool, check: bool) -> None:
    if diff:
        _coloured(report.diff())
    for entry in report.entries:
        note = f"  ({entry.note})" if entry.note else ""
        click.echo(f"{entry.status:>8}  {entry.set}: {entry.action} {entry.file}{note}", err=diff)
    changed = sum(entry.status == "changed" for entry in report.entries)
    click.echo(f"{changed} changes{' would be made' if check else ''}", err=diff)


def _coloured(text: str) -> None:
    for line in text.splitlines():
        heading = line.startswith(("---", "+++", "diff "))
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(line, fg=None if heading else colour, bold=heading))


def _release_of(tree: Path) -> str:
    from email.parser import HeaderParser

    path = tree / "PKG-INFO"
    version = HeaderParser().parsestr(path.read_text("utf-8"))["Version"] if path.is_file() else None
    if version is None:
        raise SettingsError(
            f"Which release is {tree}?",
            why="The tree has no PKG-INFO that says it (a git checkout has none).",
            next="Give --release, e.g. --release 0.9.2.",
        )
    return str(version).split("+")[0]


def _facts(given_facts: tuple[str, ...], device: str) -> Mapping[str, str | bool]:
    """What a plan would know: the environment's setuptools, and for CPU whether numa.h is there."""
    from vllm_builder.settings.layers import parse_pairs

    facts: dict[str, str | bool] = {}
    for name, value in parse_pairs(given_facts, "--fact").items():
        facts[name] = value.lower() == "true" if value.lower() in ("true", "false") else value
    if "setuptools" not in facts and (version := _setuptools_here()):
        facts["setuptools"] = version
    if device == "cpu" and "numa" not in facts:
        from vllm_builder.stages.compile.headers import has_header
        from vllm_builder.stages.compile.toolchain import probe_compilers

        environ = dict(os.environ)
        facts["numa"] = has_header("numa.h", probe_compilers("cpu", environ), environ) is not None
    return facts


def _check_facts(given_facts: tuple[str, ...], sets: Mapping[str, PatchSet]) -> None:
    """A fact that no set asks for is a slip of the pen: the operation that was meant would be left out."""
    from vllm_builder.settings.layers import parse_pairs

    known = set(_FACTS).union(
        *(item.when for patch_set in sets.values() for item in (patch_set, *patch_set.operation))
    )
    for name in parse_pairs(given_facts, "--fact"):
        if name not in known:
            raise SettingsError(
                f"No patch set asks for the fact {name!r}{did_you_mean(name, known)}.",
                why="A fact is what a set's `when` table names.",
                next=f"Known facts: {', '.join(sorted(known))}. A set's parameters are given with --parameter.",
            )


def _setuptools_here() -> str | None:
    """setuptools of the active environment, which is the one that a build by hand would use."""
    from importlib.metadata import distributions

    prefix = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    folders = [str(p) for p in Path(prefix).glob("lib/python*/site-packages")] if prefix else None
    found = distributions(name="setuptools", path=folders) if folders else distributions(name="setuptools")
    return next((d.version for d in found), None)
