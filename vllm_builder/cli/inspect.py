"""``vllm-builder inspect``: what is in a wheel, to be read in one look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vllm_builder.stages.verify.model import Inspection, Module

_WIDTH = 100
"""Columns of what is piped; a terminal has its own width."""


@click.command()
@click.argument("wheel", metavar="WHEEL|URL")
@click.option(
    "--no-libraries",
    is_flag=True,
    help="Leave the libraries unread: of a remote wheel a few 100 kB are fetched",
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only")
@json_option
def inspect(wheel: str, no_libraries: bool, quiet: bool, json_: bool) -> None:
    """Show what is in a wheel: its extensions with their GPU architectures, what they need, and sizes.

    A wheel behind an address is read by ranges where its server allows. Nothing of the wheel is run.
    """
    from vllm_builder.stages.verify.inspecting import inspect as read

    emit = screen.listener(quiet=quiet)
    found = read(wheel, emit=emit, libraries=not no_libraries)
    screen.finish()
    if json_:
        screen.print_json(found.model_dump(mode="json"))
    else:
        show(found)


def show(found: Inspection) -> None:
    """Print an inspection for a person."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(highlight=False, width=width, emoji=False, markup=False)
    with console.capture() as written:
        console.print(f"{found.filename}", style="bold", soft_wrap=True)
        console.print(_facts(found))
        if found.modules or found.unreadable:
            console.print()
            console.print(_modules(found.modules, found.unreadable))
            _folders(console, found.modules)
        console.print()
        console.print(_sizes(found))
    for line in written.get().splitlines():
        click.echo(line.rstrip())


def remarks(found: Inspection) -> list[str]:
    """What deserves a look first, in words."""
    from packaging.tags import parse_tag

    from vllm_builder.wheelfile.metadata import valid_requirement

    said = [f"not read: {part}" for part in found.not_read]
    said += [f"requires {text!r}, which is no valid requirement: installers refuse the wheel"
             for text in found.requires_dist if not valid_requirement(text)]  # fmt: skip
    written = {str(one) for tag in found.tags for one in parse_tag(tag)}
    if written != set(found.filename_tags):
        said.append(f"the file WHEEL says {', '.join(found.tags)}, unlike the file's name")
    if found.outside:
        said.append(f"needs from elsewhere (no requirement brings them): {', '.join(found.outside)}")
    for name, why in found.unreadable.items():
        said.append(why if name in why else f"{name} cannot be read. {why}")
    for module in found.modules:
        name = PurePosixPath(module.library.name).name
        if module.library.debug:
            said.append(f"{name} holds {screen.size(module.library.debug)} of debug info")
    return said


def _facts(found: Inspection) -> Table:
    from vllm_builder.stages.verify.model import count

    table = _plain(2)
    size = f"{screen.size(found.size)}, {screen.size(found.unpacked)} unpacked in {found.members} files"
    for line in remarks(found):
        table.add_row("!", line, style="yellow")
    table.add_row("wheel", f"{found.name} {found.version}, {size}")
    table.add_row("tags", ", ".join(found.filename_tags))
    if found.platform_floor or found.floor_reason:
        reason = f": {found.floor_reason}" if found.floor_reason else ""
        table.add_row("runs from", f"{found.platform_floor or 'unknown'}{reason}")
    base = [r for r in found.requires_dist if "extra ==" not in r]
    extras = len(found.requires_dist) - len(base)
    heavy = [r.split(";")[0].strip() for r in base if r.lower().startswith(("torch", "nvidia", "cuda"))]
    named = (
        f": {', '.join(heavy[:8])}{', ...' if len(heavy) > 8 or len(heavy) < len(base) else ''}"
        if heavy
        else ""
    )
    table.add_row("requires", f"Python {found.requires_python or 'of any version'}; {count(len(base), 'package')}{named}"
                  + (f"; {extras} for extras" if extras else ""))  # fmt: skip
    record = found.record
    if record:
        table.add_row("built by", f"{record.builder}, plan {record.digest[:12]}: {record.release} for {record.device}"
                      + (f" {', '.join(record.archs)}" if record.archs else "")
                      + (f", torch {record.torch}" if record.torch else "")
                      + (f", CUDA {record.toolkit}" if record.toolkit else "")
                      + (f"; only {', '.join(record.extensions)}" if record.extensions else ""))  # fmt: skip
        for name, reason in record.left_out.items():
            table.add_row("left out", f"{name}: {reason}")
        if record.full_headers:
            table.add_row("own headers", f"torch's, not lean ones, for {', '.join(record.full_headers)}")
    table.add_row("record", ("of vllm-builder" if record else "none of vllm-builder")
                  + (", with a list of components (SBOM)" if found.sbom else ", no SBOM"))  # fmt: skip
    return table


def _modules(modules: tuple[Module, ...], unreadable: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    damaged = {PurePosixPath(name).name: why for name, why in unreadable.items()}
    longest = min(32, max(map(len, (*map(_short, modules), *damaged))))
    table.add_column("library", overflow="fold", min_width=longest)
    for title in ("size", "SASS arch:units", "PTX arch:units (ISA)", "CUDA", "abi3", "torch"):
        narrow = title in {"size", "CUDA", "abi3", "torch"}
        table.add_column(
            title, justify="right" if title == "size" else "left", overflow="fold", no_wrap=narrow
        )
    for module in sorted(modules, key=lambda m: (-sum(m.bytes_by_arch.values()), -m.size, m.library.name)):
        isa = f" ({module.ptx_isa})" if module.ptx_isa else ""
        table.add_row(
            _short(module),
            screen.size(module.size),
            _archs(module.sass),
            _archs(module.ptx) + isa,
            module.cuda_runtime or "-",
            {True: "yes", False: "no", None: "-"}[module.abi3],
            _torch(module),
        )
    for name in damaged:
        table.add_row(name, "", "cannot be read", style="bold red")
    return table


def _short(module: Module) -> str:
    """``_C`` of ``vllm/_C.abi3.so``: the columns beside say the rest."""
    name = PurePosixPath(module.library.name).name
    return name.partition(".")[0] if module.abi3 is not None else name.removesuffix(".so")


def _torch(module: Module) -> str:
    if module.stable_torch:
        wanted = module.stable_torch
        return f"stable {wanted if wanted.startswith('>') else '>=' + wanted}"
    return f"C++ ({module.torch_symbols})" if module.torch_symbols else "-"


def _archs(counts: Mapping[str, int]) -> str:
    return " ".join(f"{arch}:{count}" for arch, count in counts.items()) or "-"


def _folders(console: Console, modules: tuple[Module, ...]) -> None:
    """Where libraries look for others: only where there is something to say."""
    for module in modules:
        for kind, folders in (("RPATH", module.library.rpath), ("RUNPATH", module.library.runpath)):
            if folders:
                console.print(f"{_short(module)}: {kind} {':'.join(folders)}", style="dim", soft_wrap=True)


def _sizes(found: Inspection) -> Table:
    table = _plain(3, right=(1,))
    for kind, size in found.size_by_kind.items():
        table.add_row(kind, screen.size(size), "")
    codes: dict[str, int] = {}
    for module in found.modules:
        for arch, size in module.bytes_by_arch.items():
            codes[arch] = codes.get(arch, 0) + size
    if codes:
        most = sorted(codes.items(), key=lambda item: -item[1])
        table.add_row("by arch", "", ", ".join(f"{arch} {screen.size(size)}" for arch, size in most))
    first = "largest"
    for member in found.largest:
        table.add_row(
            first, screen.size(member.size), f"{member.name} ({screen.size(member.compressed)} in the wheel)"
        )
        first = ""
    return table


def _plain(columns: int, *, right: tuple[int, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    for number in range(columns):
        table.add_column(overflow="fold", justify="right" if number in right else "left",
                         style="dim" if number == 0 else "", no_wrap=number == 0)  # fmt: skip
    return table
