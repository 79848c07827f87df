"""Which value counts: command line > environment > settings file > recipe > default.

Every resolved value remembers where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_builder.errors import SettingsError, did_you_mean
from vllm_builder.settings.model import Settings
from vllm_builder.settings.recipe import Choices, available, load_recipe, read_settings_file

PREFIX = "VLLM_BUILDER_"
SETTINGS_FILE = "vllm-builder.toml"
_NOT_SETTINGS = {
    *("VLLM_BUILDER_CONFIG", "VLLM_BUILDER_TEST_CACHE", "VLLM_BUILDER_GIT_TIMEOUT", "VLLM_BUILDER_TRACEBACK"),
    # Secrets: read where they are used, and never part of the settings, which are shown.
    *("VLLM_BUILDER_PUBLISH_USERNAME", "VLLM_BUILDER_PUBLISH_PASSWORD", "VLLM_BUILDER_PUBLISH_TOKEN"),
    "VLLM_BUILDER_SIGN_PASSPHRASE",
    "VLLM_BUILDER_SHARED_CACHE_KEY",
}
_LISTS = {name for name, info in Settings.model_fields.items() if str(info.annotation).startswith("tuple[")}
_TABLES = {"variables", "parameters", "externals"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each field the place that its value came from."""

    settings: Settings
    origins: Mapping[str, str]


@dataclass(slots=True)
class Layers:
    """The sources of settings, highest first; ``resolve`` merges them."""

    command_line: dict[str, Any]
    environment: dict[str, tuple[Any, str]]
    file: Choices | None = None
    recipe: Choices | None = None
    recipe_name: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What a bundle decides: highest of all."""
    fixed_origin: str = ""
    notes: list[str] = field(default_factory=list)

    def resolve(self, release: str | None = None) -> Resolved:
        """Merge the layers; ``[[when]]`` tables count once ``release`` is known.

        Raises:
            SettingsError: a value is of the wrong kind; names the place that it came from.
        """
        values: dict[str, Any] = {}
        origins = dict.fromkeys(Settings.model_fields, "default")
        files = [c for c in (self.recipe, self.file) if c is not None]
        for choices in files:
            for name, value in choices.for_release(release).items():
                _merge(values, origins, name, value, choices.origin)
        for name, (value, origin) in self.environment.items():
            _merge(values, origins, name, value, origin)
        for name, value in self.command_line.items():
            _merge(values, origins, name, value, "command line")
        for name, value in self.fixed.items():
            _merge(values, origins, name, value, self.fixed_origin)
        try:
            settings = Settings.model_validate(values)
        except ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            name = str(first["loc"][0])
            raise SettingsError(
                f"{name.replace('_', '-')} = {_quoted(values.get(name))} cannot be used.",
                why=f"{_plain(first['msg'])} The value comes from: {origins.get(name, '?')}.",
                next=f"{name.replace('_', '-')}: {_help(name)}.",
            ) from None
        return Resolved(settings=settings, origins=origins)


def _merge(values: dict[str, Any], origins: dict[str, str], name: str, value: Any, origin: str) -> None:
    below = values.get(name)
    if name in _TABLES and isinstance(value, Mapping):
        if below is not None and not isinstance(below, Mapping):
            return  # it stays to be refused, with where it comes from
        values[name] = {**values.get(name, {}), **{str(k): v for k, v in value.items()}}
        origins[name] = origin if origins[name] == "default" else f"{origin}, {origins[name]}"
    else:
        values[name] = value
        origins[name] = origin


def _quoted(value: object) -> str:
    """As it was given, unless there may be a password in it."""
    return "(an address with credentials)" if isinstance(value, str) and "@" in value else repr(value)


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message if message.endswith(".") else f"{message}."


def _help(name: str) -> str:
    info = Settings.model_fields.get(name)
    return (info.description or "") if info else ""


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    # The variables that upstream's setup.py and torch read mean what they mean there.
    for variable, name in (
        ("VLLM_TARGET_DEVICE", "device"),
        ("TORCH_CUDA_ARCH_LIST", "arch"),
        ("CMAKE_BUILD_TYPE", "build_type"),
        ("NVCC_THREADS", "nvcc_threads"),
        # setup.py divides it by NVCC_THREADS for CUDA, while --jobs counts compilers: the plan does that too.
        ("MAX_JOBS", "jobs"),
    ):
        if environ.get(variable, "").strip():
            text = environ[variable].strip()
            found[name] = (tuple(re.split(r"[;,\s]+", text)) if name == "arch" else text, variable)
    known = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS or not text.strip():
            continue
        if variable not in known:
            raise SettingsError(
                f"The environment variable {variable} is not a setting{did_you_mean(variable, known)}.",
                why=f"All variables that begin with {PREFIX} are read, and an unknown one is refused.",
                next=f"Unset {variable}, or use one of: {', '.join(sorted(known))}.",
            )
        name = known[variable]
        check_text(variable, text)
        value: Any = text.strip()
        if name == "patches":
            value = tuple(p for p in value.split(os.pathsep) if p)
        elif name in _LISTS:
            # Names may hold blanks; architectures never do, and TORCH_CUDA_ARCH_LIST is written with them.
            between = r"[;,\s]+" if name == "arch" else r"[;,\n]+"
            value = tuple(word.strip() for word in re.split(between, value) if word.strip())
        elif name in _TABLES:
            value = parse_pairs(re.split(r"[;\n]+", value), variable)
        found[name] = (value, variable)
    return found


def check_text(variable: str, value: str) -> None:
    """Refuse a variable's value that is no text: it could neither be recorded nor shown.

    Raises:
        SettingsError
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"The environment variable {variable} is not UTF-8 text.",
            why=f"Its value is {os.fsencode(value)[:80]!r}; what takes part in a build is recorded as text.",
            next=f"Unset {variable}, or give it in UTF-8.",
        ) from None


def parse_pairs(items: list[str] | tuple[str, ...], origin: str) -> dict[str, str]:
    """``["A=1"]`` -> ``{"A": "1"}``.

    Raises:
        SettingsError
    """
    out = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise SettingsError(
                f"{item!r} ({origin}) is not NAME=VALUE.", next="Write for example NAME=value."
            )
        out[name.strip()] = value
    return out


def gather(
    command_line: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    cwd: Path | None = None,
) -> Layers:
    """Collect all layers. Values of None on the command line are absent.

    The settings file is the one that VLLM_BUILDER_CONFIG names, else ``vllm-builder.toml`` in ``cwd``.

    Raises:
        SettingsError, RecipeError
    """
    given = {k: v for k, v in command_line.items() if v is not None and v != ()}
    unknown = set(given) - set(Settings.model_fields)
    if unknown:
        word = sorted(unknown)[0]
        raise SettingsError(
            f"There is no setting {word!r}{did_you_mean(word, Settings.model_fields)}.",
            next=f"Settings: {', '.join(Settings.model_fields)}.",
        )
    environment = _from_environment(environ)
    path = Path(environ["VLLM_BUILDER_CONFIG"]) if environ.get("VLLM_BUILDER_CONFIG") else None
    # A folder or a broken link of that name is no settings file, and not nothing either: reading it says so.
    if path is None and os.path.lexists((cwd or Path.cwd()) / SETTINGS_FILE):
        path = (cwd or Path.cwd()) / SETTINGS_FILE
    layers = Layers(given, environment, file=read_settings_file(path) if path else None)

    settings = layers.resolve().settings
    named = settings.recipe
    # A bundle has its recipe in it.
    if settings.bundle is None and named not in (None, "none"):
        layers.recipe_name = named
        layers.recipe = load_recipe(named)
    return layers


def add_device_recipe(layers: Layers, device: str) -> bool:
    """Without a recipe (and without ``none``), the recipe named as the device applies, where there is one.

    It is what most people mean by the device: ``cpu`` is the portable variant.
    """
    if layers.recipe is not None or layers.resolve().settings.recipe == "none" or device not in available():
        return False
    layers.recipe_name = device
    layers.recipe = load_recipe(device)
    return True
