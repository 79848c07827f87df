"""Patch: make a release's tree fit the build.

Patch sets (``patches/*.toml``) hold ordered operations on structure. :func:`load` reads them, :func:`select`
chooses the operations for one build, :func:`apply` makes the changes, all or none, and reports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports
from vllm_builder.stages.patch.survey import READ_PATTERNS

if TYPE_CHECKING:
    from vllm_builder.stages.patch.applying import apply
    from vllm_builder.stages.patch.loading import load
    from vllm_builder.stages.patch.operations import Operation, PatchSelection, PatchSet, Skipped, Step
    from vllm_builder.stages.patch.report import Entry, PatchReport
    from vllm_builder.stages.patch.selecting import select
    from vllm_builder.stages.patch.survey import patterns_of

__all__ = [
    "READ_PATTERNS",
    "Entry",
    "Operation",
    "PatchReport",
    "PatchSelection",
    "PatchSet",
    "Skipped",
    "Step",
    "apply",
    "load",
    "patterns_of",
    "select",
]

_HOMES = dict.fromkeys(__all__, "operations") | {
    "READ_PATTERNS": "survey",
    "apply": "applying",
    "load": "loading",
    "select": "selecting",
    "patterns_of": "survey",
    "Entry": "report",
    "PatchReport": "report",
}


__getattr__ = exports(__name__, _HOMES)
