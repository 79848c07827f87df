"""Package indexes, as pip and uv are configured on this machine.

Placeholder for the reader of pip's and uv's configuration.
"""

from __future__ import annotations

from vllm_builder.model import Free, Model


class Indexes(Model):
    """Where packages come from. None of it is part of a digest: the same file is the same file anywhere."""

    index_url: Free[str]
    extra_index_urls: Free[tuple[str, ...]] = ()
    find_links: Free[tuple[str, ...]] = ()
    no_index: Free[bool] = False
    origins: Free[tuple[str, ...]] = ()
    """Where each value was read, for display: ``"index-url: PIP_INDEX_URL"``."""
