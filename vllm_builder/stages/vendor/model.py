"""What the vendor stage takes and gives."""

from __future__ import annotations

from typing import Literal

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
