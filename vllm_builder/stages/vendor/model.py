"""What the vendor stage takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from vllm_builder.model import Free, Model

Need = Literal["yes", "maybe", "no"]
"""``maybe``: a condition could not be decided; it counts as needed."""


class External(Model):
    """A foreign source that the release's CMake code fetches.

    One name may be declared several times with different revisions, for different platforms.
    """

    name: str
    """As CMake spells it."""
    file: Free[str]
    """The CMake file that declares it, relative to the tree's root."""
    line: Free[int]
    form: Free[Literal["declare", "populate"]]
    """``FetchContent_Declare``, or ``FetchContent_Populate`` with all details in the call."""
    url: str
    """Of the git repository; empty where it cannot be told, or where something else than git is asked for."""
    revision: str
    """Tag, branch or commit, with variables resolved; empty where it cannot be told."""
    written: Free[str]
    """The revision as it stands in the file."""
    submodules: tuple[str, ...] | None = None
    """Paths of the submodules that are fetched; None for all."""
    shallow: Free[bool] = False
    override: Free[str] = ""
    """The variable, of CMake or the environment, that names a local folder instead."""
    conditions: Free[tuple[str, ...]] = ()
    """Conditions on the way there, outermost first."""
    needed: Free[Need]
    why: Free[str] = ""
    """Why it is not needed, or what could not be decided."""


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


def _inside(value: str) -> str:
    if not value or value.startswith("/") or "\\" in value or not value.isprintable():
        raise ValueError("must be a relative path")
    if {"", ".", ".."} & set(value.split("/")):
        raise ValueError("must be a plain relative path, without '..'")
    return value


_Path = Annotated[str, AfterValidator(_inside)]


class LockedSubmodule(Model):
    path: _Path
    """Relative to the repository that holds it."""
    url: Free[str]
    commit: _Hash
    tree: _Hash
    """git's hash over all its files, but for pictures and what is in the folders of ``without``."""
    without: tuple[_Path, ...] = ()
    """Folders that no build reads: not fetched, not placed, not counted."""
    submodules: tuple[LockedSubmodule, ...] = ()
    left_out: dict[str, str] = Field(default={})
    """Submodules that nothing asks for: path and commit. Their folders stay empty."""


class LockedExternal(Model):
    """One external source, exactly: its commit and git's hash over all its files."""

    name: str
    url: Free[str]
    revision: str
    """Tag, branch or commit that the release names."""
    written: str
    """The revision as it stands in the CMake file, perhaps a variable; says which call is meant."""
    folder: _Path
    """Where it lies in the release's tree."""
    commit: _Hash
    tree: _Hash
    without: tuple[_Path, ...] = ()
    submodules: tuple[LockedSubmodule, ...] = ()
    left_out: dict[str, str] = Field(default={})


class Unlocked(Model):
    """An external source of a release that could not be had when its lock was written."""

    name: str
    url: Free[str]
    revision: str


class Lock(Model):
    """What a release's externals are. Its digest covers contents, not where they were had from.

    Format 2 knows ``without`` and ``unlocked``; files of format 1 have neither and mean whole repositories.
    """

    format: Literal[1, 2] = 2
    release: str
    externals: tuple[LockedExternal, ...] = ()
    unlocked: Free[tuple[Unlocked, ...]] = ()


class ExternalSource(Model):
    """Where a person says that an external is to be had: one of ``git``, ``path`` and ``archive``."""

    git: str | None = None
    """A repository: a mirror's URL or a local one's path."""
    path: Path | None = None
    """A folder with the files, or a git repository."""
    archive: Path | None = None
    submodules: tuple[str, ...] | None = None
    """Paths of the submodules to fetch; None: those that CMake code names."""

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """A text alone is a repository: ``NAME=URL`` on the command line."""
        return {"git": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> ExternalSource:
        given = [name for name in ("git", "path", "archive") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if not given and self.submodules is None:
            raise ValueError('one of git = "...", path = "..." and archive = "..." is needed')
        return self


Sources = Mapping[str, ExternalSource]
"""By an external's name, by the name of a repository (``cutlass``: also for submodules), or by
``NAME/PATH/OF/SUBMODULE``. Case does not count."""
