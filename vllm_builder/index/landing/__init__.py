"""The page for people."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.storage.base import Storage


def write(storage: Storage, snapshot: Snapshot, versions: Iterable[str]) -> None:
    """Bring the landing page to the state of a snapshot.

    Args:
        versions: ``"PROJECT VERSION"`` of what may have changed.
    """
