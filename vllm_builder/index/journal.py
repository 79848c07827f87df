"""Word of a change whose pages may not be written yet."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from vllm_builder.index import layout
from vllm_builder.index.model import Entry, Page, Root, to_bytes
from vllm_builder.index.storage.base import FRESH, Changed, Storage, Token

_JSON: Final = "application/json"


class Note:
    """The journal of one change over all its tries, and the shards that these have written."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._token: Token | None = None
        self.key = ""
        self.entry: Entry | None = None
        self.shards: list[str] = []

    def write(
        self, at: datetime, base: int, pages: Iterable[Page], versions: Iterable[str], delete: Iterable[str]
    ) -> None:
        """What earlier tries noted stays: one of them may have been made, and only its answer lost."""
        before = self.entry or Entry(begun=at, pages=())
        self.entry = Entry(
            begun=at,
            base=base,
            pages=tuple(dict.fromkeys((*before.pages, *pages))),
            versions=tuple(dict.fromkeys((*before.versions, *versions))),
            delete=tuple(dict.fromkeys((*before.delete, *delete))),
        )
        while True:
            if self._token is None:
                self.key = layout.journal_key(secrets.token_hex(12))
            try:
                self._token = self._storage.replace(
                    self.key, to_bytes(self.entry), content_type=_JSON, cache_control=FRESH, token=self._token
                )
            except Changed:
                # Somebody else finished the earlier try for us.
                self._token = None
                continue
            return

    def clear_shards(self, root: Root) -> None:
        """Delete what an earlier try wrote, once the root shows that it was not made. Should it have been made, then its
        shard is named there, or was replaced a moment ago."""
        if self.entry is None or root.revision <= self.entry.base:
            return
        named = {ref.key for ref in root.shards} | {one.key for one in root.superseded}
        self._storage.delete(key for key in self.shards if key not in named)
        self.shards.clear()
