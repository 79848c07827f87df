"""The plan: one value that decides everything."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from vllm_builder.indexes import redact
from vllm_builder.model import Free, Model, digest, digest_view
from vllm_builder.settings.model import Device
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import EnvironmentSpec, Torch
from vllm_builder.stages.finish.model import FinishSpec
from vllm_builder.stages.patch.operations import PatchSelection
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.toolkit.model import Toolkit
from vllm_builder.stages.vendor.model import Lock
from vllm_builder.stages.verify.expectations import Expectations


class Decision(Model):
    """One line of the plan for a person: what was decided, and by what or whom."""

    what: str
    value: str
    origin: str


class Recipe(Model):
    """The recipe that the plan was made with. Its values are part of the digest, its comments are not."""

    name: Free[str]
    values: dict[str, Any] = {}


class Plan(Model):
    """Everything that the later stages obey.

    The digest covers every field that is not :data:`~vllm_builder.model.Free`, here and in the nested values: the
    source's identity, the content of every patch and of the recipe, device and architectures, torch with its
    build tag, the Python ABI (absent for an abi3 or a pure wheel), compilers, build type and the variables
    that change the output. It does not cover paths, jobs, indexes and log levels.
    """

    layout: Literal[1] = 1
    """Raised when the meaning of a field changes, so that old wheels are not taken for new ones."""
    source: SourcePin
    device: Device
    recipe: Recipe | None = None
    externals: Lock | None = None
    """The external sources that CMake fetches, by content; None where it fetches none."""
    folders: dict[str, str] = {}
    """Content hashes of the folders that variables of the release name (``VLLM_CUTLASS_SRC_DIR``)."""
    patches: PatchSelection
    torch: Torch | None = None
    """None for the device ``empty``, whose wheel does not depend on torch."""
    toolkit: Toolkit | None = None
    rust: str | None = None
    """``cargo 1.95.0 (...)`` or ``absent`` where a release has an optional Rust part; None where it has none."""
    python_abi: str | None = None
    """``cp311``; None where the wheel serves every Python."""
    platform: str
    """``linux-x86_64``."""
    compile: CompileSpec
    finish: FinishSpec = FinishSpec()
    environment: Free[EnvironmentSpec]
    expectations: Free[Expectations | None] = None
    """What the wheel has to be; it follows from the other fields, so it decides nothing. None in older plans."""
    build_torch: Free[Torch]
    """The torch that setup.py imports, also where the wheel does not depend on it."""
    decisions: Free[tuple[Decision, ...]] = ()
    notes: Free[tuple[str, ...]] = ()
    workspace_hint: Free[str] = Field("", description="The workspace that the plan was made for, for display")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that can change the wheel: the cache key."""
        return digest(self)

    def as_dict(self) -> dict[str, Any]:
        """JSON types: ``digest``, ``inputs`` (what the digest covers) and the whole ``plan``.

        Credentials in the addresses of indexes are left out: this is what is printed and kept.
        """
        plan = self.model_dump(mode="json", by_alias=True)
        indexes = plan["environment"]["indexes"]
        for name, value in indexes.items():
            if isinstance(value, str):
                indexes[name] = redact(value)
            elif isinstance(value, list):
                indexes[name] = [redact(item) for item in value]
        return {"digest": self.digest, "inputs": digest_view(self), "plan": plan}
