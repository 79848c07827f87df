"""What is known of each release's compiled parts, typed. The facts are in ``extensions.toml``, not here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from packaging.version import Version
from pydantic import Field

from vllm_builder.model import Model
from vllm_builder.stages.plan.compatibility import within

Code = Literal["requested", "fixed", "none"]
"""For which GPUs a part has code: those that were asked for, its own, or none at all."""


class KnownExtension(Model):
    """One part of some releases. See ``extensions.toml`` for the meaning of each key."""

    name: str
    path: str
    releases: str
    devices: tuple[str, ...]
    machines: tuple[str, ...] = ()
    cuda: str = ""
    python: str = ""
    code: Code
    archs: Mapping[str, str] = {}
    empty: bool = False
    one_of: bool = Field(False, alias="one-of")
    source: str

    @property
    def library(self) -> bool:
        """Whether it is a shared library; else a folder of Python files."""
        return not self.path.endswith("/")

    def codes(self, cuda: str = "") -> tuple[str, ...]:
        """Its own architectures with a version of nvcc; with any where that is not known."""
        return tuple(
            code for code, needs in self.archs.items() if not (cuda and needs) or within(needs, cuda)
        )


class Peculiarity(Model):
    """Units that a release compiles for other GPUs than it was asked for, by mistake."""

    module: str
    releases: str
    kernel: str
    why: str
    source: str


class RequirementRule(Model):
    """How a release's setup.py changes a requirement on its way into the metadata."""

    name: str
    releases: str
    becomes: str
    """``drop``, or the extras that are left."""
    extra: str = ""
    cuda: str = ""
    source: str


class SizeGate(Model):
    """What upstream allows its own wheels."""

    releases: str
    mib: int
    source: str


class Table(Model):
    extensions: tuple[KnownExtension, ...] = Field(alias="extension")
    peculiarities: tuple[Peculiarity, ...] = Field((), alias="peculiarity")
    requirement_rules: tuple[RequirementRule, ...] = Field((), alias="requirement-rule")
    size_gates: tuple[SizeGate, ...] = Field((), alias="size-gate")

    def size_gate(self, release: str) -> int:
        """Bytes that upstream allows a wheel of a release; 0 where there is no limit."""
        return next(
            (one.mib << 20 for one in self.size_gates if release and within(one.releases, release)), 0
        )

    def of(self, release: str, device: str, machine: str = "") -> Iterator[KnownExtension]:
        """The parts of a release for a device; ``machine`` as ``uname -m`` says, empty for any."""
        from vllm_builder.stages.patch.selecting import matches_release

        version = Version(release)
        found = {}
        for entry in self.extensions:
            if (
                device in entry.devices
                and matches_release(entry.releases, version)
                and (not machine or not entry.machines or machine in entry.machines)
            ):
                # A pre-release can meet two ranges; the later one is of the release that it leads to.
                found[entry.name] = entry
        yield from found.values()


@cache
def table() -> Table:
    """Read once per process."""
    return Table.model_validate(tomllib.loads((Path(__file__).parent / "extensions.toml").read_text("utf-8")))
