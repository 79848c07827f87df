"""The compatibility table, typed. The facts are in ``compatibility.toml``, not here."""

from __future__ import annotations

import tomllib
from functools import cache

from pydantic import Field

from vllm_builder.model import Model
from vllm_builder.resources import COMPATIBILITY


class Architecture(Model):
    """One compute capability: its GPU in words and the nvcc versions that compile for it."""

    gpu: str
    nvcc: str
    nvcc_family: str = Field("", alias="nvcc-family")
    """The specifier for the suffix ``f``, where it differs."""


class ExtensionArchs(Model):
    """For which architectures an extension module has code, in some releases."""

    name: str
    releases: str
    archs: tuple[str, ...]
    """As the CMake files spell them: ``9.0a``, ``8.0+PTX``."""
    source: str = ""


class Compatibility(Model):
    architectures: dict[str, Architecture]
    extensions: tuple[ExtensionArchs, ...] = ()


@cache
def compatibility() -> Compatibility:
    """Read once per process; sections of other stages are read by them."""
    table = tomllib.loads(COMPATIBILITY.read_text("utf-8"))
    return Compatibility(
        architectures={k: Architecture.model_validate(v) for k, v in table["architecture"].items()},
        extensions=tuple(ExtensionArchs.model_validate(entry) for entry in table.get("extension", ())),
    )
