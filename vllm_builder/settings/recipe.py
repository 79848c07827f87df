"""Recipes: short TOML files that hold choices for a kind of build.

A recipe has a ``description``, any setting by its name (``torch-index = "cu129"``), a ``[variables]`` table for
the release's setup.py, and ``[[when]]`` tables that hold the same for the releases that a PEP 440 specifier
names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from vllm_builder.errors import BuilderError, RecipeError, SettingsError, did_you_mean
from vllm_builder.model import Model
from vllm_builder.resources import shipped
from vllm_builder.settings.model import HELD_BY_FILES, PUBLISHING

_TOO_EARLY = frozenset({"device", "source", "git_url", "cache_dir", "offline", "workspace", "out"})
"""Settings that are needed before the release is known, so no [[when]] table can hold them."""


class When(Model):
    """Choices for some releases."""

    releases: str
    values: dict[str, Any]

    def holds(self, release: str) -> bool:
        return SpecifierSet(self.releases).contains(release, prereleases=True)


class Choices(Model):
    """What one file chooses: ``values`` by field name, and conditional ones."""

    origin: str
    path: Path | None = None
    """The recipe's file, as it was found."""
    description: str = ""
    values: dict[str, Any] = {}
    when: tuple[When, ...] = ()

    def for_release(self, release: str | None) -> dict[str, Any]:
        """The values for a release, later tables over earlier; tables of variables are merged."""
        found = dict(self.values)
        for table in self.when:
            if release is not None and table.holds(release):
                for key, value in table.values.items():
                    if isinstance(value, dict):
                        found[key] = {**found.get(key, {}), **value}
                    else:
                        found[key] = value
        return found


def _values(
    table: Mapping[str, Any], allowed: frozenset[str], where: str, error: type[BuilderError]
) -> dict[str, Any]:
    out = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in allowed:
            words = sorted(a.replace("_", "-") for a in allowed)
            raise error(
                f"{where}: unknown key {key!r}{did_you_mean(key, words)}.",
                why="Unknown keys are refused, so that a misspelt one is never ignored.",
                next=f"Use one of: {', '.join(words)}.",
            )
        out[name] = value
    return out


def parse_choices(
    text: str,
    origin: str,
    *,
    error: type[BuilderError] = RecipeError,
    further: frozenset[str] = frozenset(),
) -> Choices:
    """Read a recipe or a settings file.

    Raises:
        RecipeError (or ``error``): for bad TOML, an unknown key or a bad specifier.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{origin} is not valid TOML: {problem}.", next="Mend the file at that place.") from None
    description = table.pop("description", "")
    if not isinstance(description, str):
        raise error(f"{origin}: description must be a string.", next='Write description = "...".')
    when = []
    tables = table.pop("when", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise error(
            f"{origin}: 'when' must be written as [[when]] tables.",
            next='Write [[when]] with releases = "...".',
        )
    for number, entry in enumerate(tables, 1):
        where = f"{origin}, [[when]] number {number}"
        releases = entry.pop("releases", None)
        try:
            if not isinstance(releases, str):
                raise TypeError
            SpecifierSet(releases)
        except (InvalidSpecifier, TypeError, AttributeError):
            raise error(
                f"{where}: releases = {releases!r} is not a PEP 440 specifier.",
                next='Write for example releases = ">=0.9,<0.17".',
            ) from None
        when.append(When(releases=releases, values=_values(entry, HELD_BY_FILES - _TOO_EARLY, where, error)))
    values = _values(table, HELD_BY_FILES | further, origin, error)
    return Choices(origin=origin, description=description, values=values, when=tuple(when))


def read_settings_file(path: Path) -> Choices:
    """Read ``vllm-builder.toml``.

    Raises:
        SettingsError
    """
    return parse_choices(
        _read(path, SettingsError),
        str(path),
        error=SettingsError,
        further=PUBLISHING | {"recipe", "shared_cache"},
    )


def _read(path: Path, error: type[BuilderError]) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text.", next="Save it as UTF-8.") from None
    except OSError as problem:
        raise error(
            f"Cannot read {path}.",
            why=problem.strerror or str(problem),
            next="Check the name and the permissions.",
        ) from None


def available(folders: tuple[Path, ...] | None = None) -> dict[str, Path]:
    """Recipes by name: those in ``./recipes`` come before the shipped ones."""
    found: dict[str, Path] = {}
    for folder in folders or (Path("recipes"), shipped("recipes")):
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def is_shipped(name: str) -> bool:
    """Whether a recipe of this name comes with the package, be it hidden by one of ``./recipes`` or not."""
    return (shipped("recipes") / f"{name}.toml").is_file()


def load_recipe(name: str) -> Choices:
    """Load a recipe by name or by file.

    Raises:
        RecipeError
    """
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise RecipeError(
                f"There is no recipe file {name}.", next="Check the path, or `vllm-builder recipes list`."
            )
    else:
        known = available()
        if name not in known:
            raise RecipeError(
                f"There is no recipe {name!r}{did_you_mean(name, known)}.",
                why=f"Known recipes: {', '.join(sorted(known))}.",
                next="`vllm-builder recipes list` shows them; a file is given with its path.",
            )
        path = known[name]
    choices = parse_choices(_read(path, RecipeError), f"recipe {path.stem}")
    return choices.model_copy(update={"path": path})
