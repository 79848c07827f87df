"""Command-line options, made from the settings model: name, help and shape stand there alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vllm_builder.settings.layers import PREFIX, parse_pairs
from vllm_builder.settings.model import PUBLISHING as PUBLISHING_FIELDS
from vllm_builder.settings.model import Settings

F = TypeVar("F", bound=Callable[..., Any])

_METAVAR = {
    "arch": "SM",
    "recipe": "NAME|FILE",
    "device": "cuda|cpu|empty",
    "torch": "existing|auto|VERSION",
    "torch_index": "URL|cuXXX|cpu",
    "pin_torch": "none|minor|exact",
    "cuda": "auto|pypi|system|PATH",
    "cuda_home": "DIR",
    "python": "PATH|X.Y",
    "source": "auto|git|pypi|PATH",
    "git_url": "URL",
    "jobs": "N|auto",
    "nvcc_threads": "N",
    "extensions": "NAME,...",
    "build_type": "TYPE",
    "compiler_cache": "auto|ccache|split|sccache|off",
    "patches": "DIR",
    "with_patch": "NAME",
    "without_patch": "NAME",
    "parameters": "NAME=VALUE",
    "variables": "NAME=VALUE",
    "externals": "NAME=REPOSITORY",
    "lock_file": "FILE",
    "bundle": "FILE",
    "workspace": "DIR",
    "out": "DIR",
    "cache_dir": "DIR",
    "shared_cache": "URL|DIR",
    "publish": "TO",
    "channel": "NAME",
    "variant": "NAME",
    "sign_key": "FILE",
    "builder_id": "URI",
    "simple_url": "URL",
}
_FLAG_NAMES = {"parameters": "--parameter", "variables": "--variable", "externals": "--external"}


PUBLISHING = tuple(name for name in Settings.model_fields if name in PUBLISHING_FIELDS)


def settings_options(*, without: tuple[str, ...] = (), version_required: bool = True) -> Callable[[F], F]:
    """Decorate a command with VERSION and every setting's option; each is None (or empty) when not given."""

    def decorate(function: F) -> F:
        for name, info in reversed(Settings.model_fields.items()):
            if name == "version" or name in without:
                continue
            kind = str(info.annotation)
            flag = _FLAG_NAMES.get(name, "--" + name.replace("_", "-"))
            help_text = info.description or ""
            if info.annotation is bool and info.default is True:
                both = f"{flag}/--no-{flag.removeprefix('--')}"
                function = click.option(both, name, default=None, help=help_text)(function)
            elif info.annotation is bool:
                function = click.option(flag, name, is_flag=True, default=None, help=help_text)(function)
            else:
                several = kind.startswith(("tuple[", "dict["))
                function = click.option(
                    flag, name, multiple=several, default=None, metavar=_METAVAR[name], help=help_text
                )(function)
        callback = None if version_required else _version_or_bundle
        return click.argument("version", required=version_required, callback=callback)(function)

    return decorate


def _version_or_bundle(ctx: click.Context, parameter: click.Parameter, version: str | None) -> str | None:
    # The argument may be looked at before the option: what was typed decides.
    takes_bundle = any(one.name == "bundle" for one in ctx.command.params)
    if version is None and takes_bundle and not ctx.params.get("bundle"):
        named = {PREFIX + "VERSION", PREFIX + "BUNDLE"} & set(os.environ)
        if not named:
            raise click.MissingParameter("Or give --bundle FILE.", ctx=ctx, param=parameter)
    return version


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were really on the command line, tables parsed."""
    out = {k: v for k, v in options.items() if v is not None and v != ()}
    for name in ("variables", "parameters", "externals"):
        if name in out:
            out[name] = parse_pairs(out[name], "command line")
    return out
