"""What stands in a bundle's manifest."""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import AfterValidator, Field, model_validator

from vllm_builder.model import Model
from vllm_builder.settings.model import Settings
from vllm_builder.settings.recipe import Choices
from vllm_builder.stages.environment.model import Torch
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.toolkit.model import ToolkitSpec

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
"""The first member of the archive."""
PATCHES: Final = "patches"
WHEELS: Final = "wheels"
LOCK_FILE: Final = "externals.lock.toml"
DECIDES: Final = (
    *(
        "version",
        "device",
        "arch",
        "recipe",
        "torch",
        "torch_index",
        "pin_torch",
        "build_type",
        "keep_dead",
        "lean_headers",
        "extensions",
    ),
    *("source", "git_url", "patches", "with_patch", "without_patch", "parameters", "externals", "lock_file"),
    *("variables", "cuda", "cuda_home", "compiler_cache"),
)
"""Settings that a bundle decides or suggests; the others are for the machine where it is used to say."""


def _inside(value: str) -> str:
    if not value.isprintable() or "\\" in value or ":" in value or len(value.encode()) > 1000:
        raise ValueError("must be a plain relative path")
    if any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("must be a plain relative path, without '..'")
    return value


_Path = Annotated[str, AfterValidator(_inside)]
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class BundledFile(Model):
    """One member of the archive; all of them are plain files."""

    path: _Path
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Pack(Model):
    """A pack of git objects: whole commits without their history."""

    file: _Path
    commits: Annotated[tuple[_Commit, ...], Field(min_length=1)]


class Supply(Model):
    """Where an external source or a submodule of one comes from."""

    trail: str
    """``NAME`` or ``NAME/PATH/OF/SUBMODULE``."""
    file: _Path
    """A pack or an archive."""


class Manifest(Model):
    """Everything about a bundle but the content of its files.

    What is the machine's own is found again where it is used. ``settings`` may name folders of the machine that it
    was made on, as they were typed: they are held against what is typed with the bundle, and never looked at.
    """

    format: Literal[1] = 1
    builder: str
    """The version of vllm-builder that wrote it."""
    digest: str
    """Of the plan."""
    inputs: dict[str, Any]
    """What the digest covers."""
    version: str
    """Of the wheel: ``0.9.2+cu130``."""
    settings: dict[str, Any]
    """What was asked for, those of :data:`DECIDES`; credentials left out."""
    recipe: Choices | None
    recipe_name: str | None
    device: Literal["cuda", "cpu", "empty"]
    archs: tuple[str, ...]
    variables: dict[str, str]
    platform: str
    """``linux-x86_64``."""
    python_tag: Annotated[str, Field(pattern=r"^cp3\d{1,2}$")]
    """``cp311``: the Python that the wheels are for."""
    source: SourcePin
    source_file: _Path
    """An archive, or a pack."""
    packs: tuple[Pack, ...] = ()
    supplies: tuple[Supply, ...] = ()
    lock: tuple[str, ...]
    """Of the build environment."""
    build_torch: Torch
    torch_from: Literal["bundle", "machine"]
    toolkit: ToolkitSpec | None
    toolkit_from: Literal["bundle", "machine", "none"]
    needs: tuple[str, ...]
    """What the machine has to have besides, in words."""
    files: tuple[BundledFile, ...]

    @cached_property
    def asked(self) -> Settings:
        """``settings`` as such."""
        return Settings.model_validate(self.settings)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if unknown := sorted(set(self.settings) - set(DECIDES)):
            raise ValueError(f"{unknown[0]} is no setting for a bundle")
        assert self.asked
        Version(self.build_torch.version)
        self._as_in_inputs()
        _check_recipe(self.recipe)
        folded = [unicodedata.normalize("NFC", file.path).casefold() for file in self.files]
        paths = {file.path for file in self.files}
        if len(set(folded)) != len(folded) or MANIFEST in folded:
            raise ValueError("a file is listed twice")
        for path in folded:
            parents = path.split("/")[:-1]
            if any("/".join(parents[:end]) in folded for end in range(1, len(parents) + 1)):
                raise ValueError("a file is listed as the folder of another")
        named = {self.source_file, *(p.file for p in self.packs), *(s.file for s in self.supplies)}
        if missing := sorted(named - paths):
            raise ValueError(f"{missing[0]} is named and not listed")
        return self

    def _as_in_inputs(self) -> None:
        """What is said twice must be the same: the inputs are held against the digest, the rest is not."""
        source = {"identity": self.source.identity, "release": self.source.release}
        compiled = self.inputs.get("compile")
        archs = compiled.get("archs") if isinstance(compiled, dict) else None
        for name, here, there in (
            ("source", source, self.inputs.get("source")),
            ("device", self.device, self.inputs.get("device")),
            ("archs", list(self.archs), archs),
        ):
            if here != there:
                raise ValueError(f"{name} is not that of the inputs")


def _check_recipe(recipe: Choices | None) -> None:
    """As when its file was read: it is used without asking further."""
    if recipe is None:
        return
    for values in (recipe.values, *(one.values for one in recipe.when)):
        Settings.model_validate({"version": "latest", **values})
    for one in recipe.when:
        SpecifierSet(one.releases)
