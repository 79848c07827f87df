"""Places where an index can lie."""

from __future__ import annotations

from pathlib import Path

from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder


def open_storage(to: str) -> Storage:
    """The storage that ``--to`` names: a folder, or ``s3://bucket/prefix``.

    Raises:
        SettingsError: it is neither.
    """
    return Folder(Path(to).expanduser().absolute())
