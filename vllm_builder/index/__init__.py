"""A wheel index on a folder or an object store: what pip and uv resolve from, and a page for people.

``layout`` says where things lie, ``model`` what the manifest holds, ``storage`` where it can lie, ``manifest`` how
it changes, ``pages`` what is made of it. What can be done with an index is a function over its storage::

    from vllm_builder import index

    wheels = index.open_index("/srv/wheels")
    index.promote(wheels, "0.9.3.dev12", channel="release")
    index.prune(wheels, keep=14)
    for finding in index.check(wheels).findings:
        print(finding.severity, finding.what, finding.cure)

Wheels come in by :func:`vllm_builder.stages.publish.publish`, which verifies them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.index.checking import CheckReport, check
    from vllm_builder.index.listing import Listing, survey
    from vllm_builder.index.manifest import load
    from vllm_builder.index.opening import open_index
    from vllm_builder.index.promoting import promote
    from vllm_builder.index.pruning import Pruned, prune
    from vllm_builder.index.rebuilding import Rebuilt, rebuild
    from vllm_builder.index.selecting import select
    from vllm_builder.index.yanking import unyank, yank

__all__ = [
    "CheckReport",
    "Listing",
    "Pruned",
    "Rebuilt",
    "check",
    "load",
    "open_index",
    "promote",
    "prune",
    "rebuild",
    "select",
    "survey",
    "unyank",
    "yank",
]

_HOMES = {
    "CheckReport": "checking",
    "Listing": "listing",
    "Pruned": "pruning",
    "Rebuilt": "rebuilding",
    "check": "checking",
    "load": "manifest",
    "open_index": "opening",
    "promote": "promoting",
    "prune": "pruning",
    "rebuild": "rebuilding",
    "select": "selecting",
    "survey": "listing",
    "unyank": "yanking",
    "yank": "yanking",
}

__getattr__ = exports(__name__, _HOMES)
