"""``vllm-builder vendor``: the external sources of a release."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.cli.options import given, settings_options
from vllm_builder.errors import SettingsError, VendorError

if TYPE_CHECKING:
    from vllm_builder.events import Emit
    from vllm_builder.settings.layers import Layers
    from vllm_builder.settings.model import Settings
    from vllm_builder.stages.vendor.model import External, Lock

_KEPT = (
    *("device", "arch", "recipe", "variables", "source", "git_url", "externals", "lock_file"),
    *("cache_dir", "offline", "refresh"),
)


def _others() -> tuple[str, ...]:
    from vllm_builder.settings.model import Settings

    return tuple(name for name in Settings.model_fields if name not in _KEPT)


@click.command()
@settings_options(without=_others())
@click.option("--cuda", metavar="X.Y", help="Version of nvcc, where the release's CMake code asks for it")
@click.option("--list", "list_", is_flag=True, help="Show what the build would fetch (the default)")
@click.option("--lock", "lock_", is_flag=True, help="Write the lock file")
@click.option(
    "--add",
    is_flag=True,
    help="With --lock: keep what the file has and lock the rest, say for another device",
)
@click.option(
    "--keep-going", is_flag=True,
    help="With --lock: write down by name what cannot be had and lock the others; exit code 1 if any",
)  # fmt: skip
@click.option(
    "--check", "check_", is_flag=True, help="Compare the lock file with the release; exit code 1 if not alike"
)
@click.option(
    "--tree", type=click.Path(path_type=Path), metavar="DIR",
    help="With --check: a tree whose externals are checked too; alone: put the locked externals into it",
)  # fmt: skip
@json_option
def vendor(
    cuda: str | None,
    list_: bool,
    lock_: bool,
    add: bool,
    keep_going: bool,
    check_: bool,
    tree: Path | None,
    json_: bool,
    **options: Any,
) -> None:
    """Find, lock, check or place the external sources of VERSION, for a device."""
    from vllm_builder.settings.layers import gather
    from vllm_builder.stages.plan.externals import lock_of_release, lock_to_write
    from vllm_builder.stages.vendor import check, fetch_externals, lock, read_lock, write_lock
    from vllm_builder.stages.vendor.locking import for_build, joined, key
    from vllm_builder.stages.vendor.model import Lock

    if sum((list_, lock_, check_)) > 1:
        raise SettingsError("--list, --lock and --check exclude each other.", next="Give one of them.")
    if (add or keep_going) and not lock_:
        raise SettingsError("--add and --keep-going are about --lock.", next="Give --lock with them.")
    if tree is not None and not (tree / "CMakeLists.txt").is_file():
        raise VendorError(
            f"{tree} is no tree of a release.",
            why="It has no CMakeLists.txt." if tree.is_dir() else "There is no such folder.",
            next="Give --tree the top folder of a vLLM tree (`vllm-builder source` makes one).",
        )
    emit = screen.listener()
    layers = gather(given(options), dict(os.environ))
    release, externals, cmake, settings = _look(layers, cuda, emit)
    path = lock_to_write(settings, release)
    problems: Sequence[str] = ()
    found: Lock | None = None
    if lock_:
        from vllm_builder.stages.plan.steps import default_cache

        if settings.offline:
            raise SettingsError(
                "--lock asks the repositories, and --offline forbids it.", next="Leave one out."
            )
        written = read_lock(path, release) if path.is_file() else Lock(release=release)
        before = written if add else Lock(release=release)
        there = {key(one) for one in before.externals}
        found = lock(
            [one for one in externals if key(one) not in there],
            settings.externals,
            default_cache(settings),
            release=release,
            cmake=cmake,
            emit=emit,
            keep_going=keep_going,
        )
        problems = [f"{one.name} {one.revision}: {one.url} could not be had" for one in found.unlocked]
        found = joined(before, found)
        lost = sorted({one.name for one in written.externals} - {one.name for one in found.externals})
        if lost:
            raise VendorError(
                f"{path} would lose {', '.join(lost)}.",
                why="What is locked now is for another device or other architectures than that file.",
                next="Give --add to keep them in it, or another --lock-file; or remove that file first.",
            )
        write_lock(found, path)
    elif check_ or (tree and not list_):
        found, path = lock_of_release(settings, release)
        problems = check(found, externals, tree if check_ else None)
        if tree and not check_:
            from vllm_builder.stages.patch import PatchSelection, apply
            from vllm_builder.stages.plan.steps import default_cache
            from vllm_builder.stages.vendor import patch_steps

            if problems:
                raise VendorError(
                    f"{path} does not fit this build.",
                    why=f"The CMake files of {release} fetch something else.",
                    details=problems,
                    next="Write it anew with --lock.",
                )
            needed = for_build(found, externals)
            fetch_externals(
                needed, settings.externals, tree, default_cache(settings), emit, offline=settings.offline
            )
            apply(PatchSelection(steps=patch_steps(needed)), tree, emit=emit)
    screen.finish()
    if json_:
        screen.print_json(
            {
                "release": release,
                "externals": [one.model_dump(mode="json") for one in externals],
                "lock_file": str(path) if found else None,
                "lock": found.model_dump(mode="json") if found else None,
                "problems": list(problems),
            }
        )
    else:
        _show(externals, found, path, problems, wrote=lock_, checked=check_)
    if problems:
        click.get_current_context().exit(1)


class _Found(NamedTuple):
    release: str
    externals: tuple[External, ...]
    cmake: dict[str, bytes]
    settings: Settings


def _look(layers: Layers, cuda: str | None, emit: Emit) -> _Found:
    """What a plan would find, without torch, toolkit and compilers."""
    from vllm_builder.indexes import read_indexes
    from vllm_builder.settings.layers import add_device_recipe
    from vllm_builder.stages.plan.archs import parse_archs
    from vllm_builder.stages.plan.externals import find_externals
    from vllm_builder.stages.plan.release import Release
    from vllm_builder.stages.plan.steps import default_cache, source_request
    from vllm_builder.stages.source import resolve, survey
    from vllm_builder.stages.vendor import cmake_files

    environ = dict(os.environ)
    device = layers.resolve().settings.device or "cuda"
    add_device_recipe(layers, device)
    settings = layers.resolve().settings
    cache = default_cache(settings)
    request = source_request(settings, read_indexes())
    pin = resolve(request, cache, emit)
    folder = survey(pin, cache, emit, offline=settings.offline, request=request)
    settings = layers.resolve(pin.release).settings
    archs = parse_archs(settings.arch, environ) if settings.arch and device == "cuda" else ()
    named = Release(folder).build_variables()
    variables = {**{k: v for k, v in environ.items() if k in named}, **settings.variables}
    externals = find_externals(folder, device=device, cuda=cuda, archs=archs, variables=variables)
    return _Found(pin.release, externals, cmake_files(folder), settings)


def _show(
    externals: Sequence[External],
    found: Lock | None,
    path: Path,
    problems: Sequence[str],
    *,
    wrote: bool,
    checked: bool,
) -> None:
    for problem in problems:
        click.echo(problem)
    if found is None:
        for one in externals:
            why = f"  ({one.why})" if one.why else ""
            click.echo(f"{one.needed:>5}  {one.name} {one.revision} {one.url}  {one.file}:{one.line}{why}")
    elif wrote:
        for locked in found.externals:
            parts = "".join(f", {part.path} {part.commit[:12]}" for part in locked.submodules)
            click.echo(f"{locked.name} {locked.revision}: {locked.commit}{parts}", err=True)
        click.echo(str(path))
    elif not problems:
        click.echo(
            f"{path}: {len(found.externals)} externals, all as locked" if checked else str(path), err=True
        )
