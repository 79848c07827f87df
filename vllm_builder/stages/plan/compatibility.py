"""The compatibility table, typed. The facts are in ``compatibility.toml``, not here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import Field

from vllm_builder.model import Model
from vllm_builder.resources import COMPATIBILITY


class Architecture(Model):
    """One compute capability: its GPU in words and the nvcc versions that compile for it."""

    gpu: str
    nvcc: str
    nvcc_family: str = Field("", alias="nvcc-family")
    """The specifier for the suffix ``f``, where it differs."""
    suffixes: str = ""
    """The letters with which nvcc knows it: ``a``, ``af`` or none."""


class TorchBuilds(Model):
    """The builds of a torch minor version, ``cu128``; ``default`` is the one on the default index."""

    default: str
    builds: tuple[str, ...]


class TorchArchs(Model):
    """What the kernels of some torch builds were compiled for."""

    torch: str
    cuda: str
    machines: Mapping[str, tuple[str, ...]]


class AlsoTried(Model):
    """A torch other than its pin that a release was compiled against."""

    releases: str
    torch: str
    builds: tuple[str, ...]
    source: str


class Conflict(Model):
    """A torch and an nvcc that do not go together."""

    torch: str
    nvcc: str
    why: str


class Compatibility(Model):
    architectures: dict[str, Architecture]
    torch: dict[str, TorchBuilds]
    torch_archs: tuple[TorchArchs, ...]
    also_tried: tuple[AlsoTried, ...]
    conflicts: tuple[Conflict, ...]
    packaged_toolkits: dict[str, str]
    """nvcc's version -> the version of the package ``cuda-toolkit``."""
    drivers: dict[str, str]
    """CUDA's major version -> the oldest driver."""

    def torch_builds(self, version: str) -> TorchBuilds | None:
        """The builds of a torch version, or None where nothing is known of it."""
        return self.torch.get(".".join(version.split("+")[0].split(".")[:2]))

    def archs_of_torch(self, version: str, cuda: str, machine: str) -> tuple[str, ...] | None:
        """What a torch build was compiled for, or None where it is not known."""
        for entry in self.torch_archs:
            if within(entry.torch, version) and within(entry.cuda, cuda):
                return entry.machines.get(machine)
        return None

    def conflict(self, torch: str, nvcc: str) -> str | None:
        """Why this torch and this nvcc do not go together, or None."""
        for entry in self.conflicts:
            if within(entry.torch, torch) and within(entry.nvcc, nvcc):
                return entry.why
        return None


def within(specifier: str, version: str) -> bool:
    """Whether a version is in a specifier; what is no version is in none."""
    try:
        parsed = Version(Version(version).public)
    except InvalidVersion:
        return False
    return SpecifierSet(specifier).contains(parsed, prereleases=True)


def cuda_version(build: str) -> str:
    """``cu129`` -> ``12.9``."""
    return f"{build[2:-1]}.{build[-1]}"


@cache
def compatibility() -> Compatibility:
    """Read once per process; sections of other stages are read by them."""
    table = tomllib.loads(COMPATIBILITY.read_text("utf-8"))
    return Compatibility.model_validate(
        {
            "architectures": table["architecture"],
            "torch": table["torch"],
            "torch_archs": table["torch-archs"],
            "also_tried": table["also-tried"],
            "conflicts": table["conflict"],
            "packaged_toolkits": table["packaged-toolkit"],
            "drivers": table["driver"],
        }
    )
