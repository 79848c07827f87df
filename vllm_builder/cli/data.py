"""``vllm-builder recipes`` and ``vllm-builder patches``: the shipped and the person's own data."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_builder.cli import screen
from vllm_builder.cli.app import json_option
from vllm_builder.errors import PatchSetError, RecipeError, did_you_mean
from vllm_builder.resources import shipped
from vllm_builder.settings.recipe import available, is_shipped, load_recipe

_folders = click.option(
    "--patches", "folders", multiple=True, metavar="DIR", help="Folder of further patch sets"
)


@click.group()
def recipes() -> None:
    """Recipes: choices for a kind of build."""


@recipes.command("list")
@json_option
def list_recipes(json_: bool) -> None:
    """All recipes, with a line each."""
    rows = [_row(name, path) for name, path in sorted(available().items())]
    if json_:
        screen.print_json(rows)
        return
    for row in rows:
        said = f"cannot be used: {row['problem']}" if row["problem"] else row["description"]
        row["shown"] = said + {"": "", "own": f" ({row['path']})"}.get(
            row["whose"], f" ({row['path']}, in place of the shipped one)"
        )
    _rows([(row["name"], row["shown"]) for row in rows])


def _row(name: str, path: Path) -> dict[str, str]:
    """One recipe; a file that cannot be read is listed with the reason."""
    mine = path.parent != shipped("recipes")
    row = {"name": name, "description": "", "path": str(path), "problem": ""}
    row["whose"] = ("instead" if is_shipped(name) else "own") if mine else ""
    try:
        row["description"] = load_recipe(str(path)).description
    except RecipeError as error:
        row["problem"] = error.what
    return row


@recipes.command("show")
@click.argument("name")
@json_option
def show_recipe(name: str, json_: bool) -> None:
    """One recipe, as it is written."""
    choices = load_recipe(name)
    if json_:
        screen.print_json({"name": name, **choices.model_dump(mode="json")})
        return
    path = available().get(name, Path(name))
    click.echo(path.read_text("utf-8").rstrip())


@click.group()
def patches() -> None:
    """Patch sets: structured changes to a release's tree."""


@patches.command("list")
@_folders
@json_option
def list_patches(folders: tuple[str, ...], json_: bool) -> None:
    """All patch sets, with a line each."""
    from vllm_builder.stages.patch import load

    sets = load((shipped("patches"), *map(Path, folders)))
    if json_:
        screen.print_json(
            [{"name": n, "description": s.description, "default": s.default} for n, s in sets.items()]
        )
        return
    _rows([(n, s.description + ("" if s.default else " (opt-in: --with-patch)")) for n, s in sets.items()])


@patches.command("show")
@click.argument("name")
@_folders
@json_option
def show_patches(name: str, folders: tuple[str, ...], json_: bool) -> None:
    """One patch set, as it is written."""
    from vllm_builder.stages.patch import load

    places = (*map(Path, reversed(folders)), shipped("patches"))
    sets = load((shipped("patches"), *map(Path, folders)))
    for folder in places:
        path = folder / f"{name}.toml"
        if name in sets and path.is_file():
            if json_:
                screen.print_json(sets[name].model_dump(mode="json", exclude_defaults=True))
                return
            click.echo(path.read_text("utf-8").rstrip())
            return
    known = sorted({p.stem for f in places for p in f.glob("*.toml")})
    raise PatchSetError(
        f"There is no patch set {name!r}{did_you_mean(name, known)}.", next=f"Known: {', '.join(known)}."
    )


def _rows(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name.ljust(width)}  {text}")
