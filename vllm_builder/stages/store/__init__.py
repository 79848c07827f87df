"""Stage six: finished wheels under the digest of their plan.

store = Store(cache.store)
entry = store.get(digest)                       # checked, or None
if entry is None:
    with store.lock(digest, emit=emit):
        entry = store.get(digest) or store.add(digest, wheel, record)
deliver(entry, out)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_builder.lazy import exports

if TYPE_CHECKING:
    from vllm_builder.stages.store.caches import KINDS, contents, prune_cache
    from vllm_builder.stages.store.delivery import deliver
    from vllm_builder.stages.store.model import (
        CompileFacts,
        Entry,
        Holder,
        NewerRecord,
        Record,
        Unreadable,
        WheelFile,
        now,
        read_record,
    )
    from vllm_builder.stages.store.pruning import prune
    from vllm_builder.stages.store.reports import Checked, Item, Kept, PruneReport, VerifyReport
    from vllm_builder.stages.store.store import Store

__all__ = [
    "KINDS",
    "Checked",
    "CompileFacts",
    "Entry",
    "Holder",
    "Item",
    "Kept",
    "NewerRecord",
    "PruneReport",
    "Record",
    "Store",
    "Unreadable",
    "VerifyReport",
    "WheelFile",
    "contents",
    "deliver",
    "now",
    "prune",
    "prune_cache",
    "read_record",
]

_HOMES = dict.fromkeys(__all__, "model") | {
    "KINDS": "caches",
    "contents": "caches",
    "prune_cache": "caches",
    "deliver": "delivery",
    "prune": "pruning",
    "Store": "store",
    "Checked": "reports",
    "Item": "reports",
    "Kept": "reports",
    "PruneReport": "reports",
    "VerifyReport": "reports",
}


__getattr__ = exports(__name__, _HOMES)
