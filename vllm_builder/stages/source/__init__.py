"""Source: from what a person asked for to a tree on the disk.

:func:`resolve` finds one source and pins it by content, :func:`survey` gives the few files of it that a plan
reads, :func:`fetch` writes the whole tree, :func:`releases` lists what the indexes offer. Each is imported
when it is first used: with everything remembered, none of git, requests and their like is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.source.extraction import extract
    from vllm_builder.stages.source.listing import releases
    from vllm_builder.stages.source.materialise import fetch
    from vllm_builder.stages.source.model import ReleaseFile, SourceKind, SourcePin, SourceRequest
    from vllm_builder.stages.source.resolving import resolve
    from vllm_builder.stages.source.surveying import survey

_HOMES = {
    "extract": "extraction",
    "fetch": "materialise",
    "releases": "listing",
    "resolve": "resolving",
    "survey": "surveying",
    "ReleaseFile": "model",
    "SourceKind": "model",
    "SourcePin": "model",
    "SourceRequest": "model",
}

__all__ = [
    "ReleaseFile",
    "SourceKind",
    "SourcePin",
    "SourceRequest",
    "extract",
    "fetch",
    "releases",
    "resolve",
    "survey",
]


__getattr__ = exports(__name__, _HOMES)
