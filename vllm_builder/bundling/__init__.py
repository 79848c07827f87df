"""A bundle: one archive with all that a closed machine needs to build one plan.

``make_bundle`` writes it, ``plan_with`` makes the plan of it on the machine where it is used. Its content comes
into the cache, each file held against its hash, and planning takes the answers that are in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.bundling.making import Bundle, make_bundle
    from vllm_builder.bundling.model import Manifest
    from vllm_builder.bundling.reading import open_bundle, read_manifest
    from vllm_builder.bundling.using import plan_with

__all__ = ["Bundle", "Manifest", "make_bundle", "open_bundle", "plan_with", "read_manifest"]

_HOMES = {
    "Bundle": "making",
    "make_bundle": "making",
    "Manifest": "model",
    "open_bundle": "reading",
    "read_manifest": "reading",
    "plan_with": "using",
}


__getattr__ = exports(__name__, _HOMES)
