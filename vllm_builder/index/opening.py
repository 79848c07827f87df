"""Open an index by what a person typed, and take nothing for an index that is none."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Final

from vllm_builder.errors import IndexDamaged, NotInIndex, NotWritable, SettingsError, StorageFailed
from vllm_builder.index import layout
from vllm_builder.index.storage import open_storage
from vllm_builder.index.storage.base import Storage
from vllm_builder.index.storage.folder import Folder

_PARTS: Final = re.compile(r"manifest/[a-z0-9-]+/[a-z0-9._-]+/[0-9a-f]{64}\.json|journal/[0-9a-f]+\.json")
_SHOWN: Final = 3


def open_index(to: str, *, create: bool = False, damaged: bool = False) -> Storage:
    """The storage of an index that is there, or that may be made.

    Args:
        to: a folder, or ``s3://bucket/prefix``.
        create: an empty or a missing folder is well, too.
        damaged: an index without its root is well, too: for ``check`` and ``rebuild``.

    Raises:
        SettingsError: there is something else, it is inside another index, or it is no address of an index.
        NotInIndex: there is no index, and none is to be made.
        IndexDamaged: there is an index, and the root of its manifest is gone.
        StorageFailed: it cannot be reached.
    """
    storage = open_storage(to)
    if isinstance(storage, Folder) and storage.root.exists() and not storage.root.is_dir():
        raise SettingsError(
            f"--to {to} is a file.",
            why="An index is a folder of many files.",
            next=f"Name a folder, for example --to {Path(to).with_suffix('')}-index.",
        )
    if storage.stat(layout.ROOT) is not None:
        return storage
    if (outer := _around(storage)) is not None:
        raise SettingsError(
            f"{storage.url} is inside the index {outer}.",
            why="An index has its channels as folders; another index in one of them would be taken for its pages.",
            next=f"Name the index itself: --to {quote(outer)}; to publish into a channel of it, add --channel NAME.",
        )
    foreign, lost = _foreign(storage), _was_an_index(storage)
    if storage.stat(layout.ROOT) is not None:
        return storage  # the first publisher came meanwhile
    if foreign:
        raise SettingsError(
            f"{storage.url} is not empty, and no index.",
            why=f"It holds {', '.join(foreign)}. An index is not mixed with what somebody else put there.",
            next="Name an empty or a new folder with --to.",
        )
    if lost:
        if damaged:
            return storage
        raise IndexDamaged(
            f"The index {storage.url} has lost {layout.ROOT}.",
            why="There are pages or an older state of its manifest, and the file that holds them together is gone.",
            next=f"Put {layout.ROOT} back from a backup, or run "
            f"`vllm-builder index rebuild --from-shards --to {quote(to)}`.",
        )
    if create:
        return storage
    raise NotInIndex(
        f"There is no index at {storage.url}.",
        why="The folder does not exist."
        if isinstance(storage, Folder) and not storage.root.exists()
        else "Nothing was published there yet.",
        next=f"Look at the spelling of --to, or make one: `vllm-builder index publish WHEEL --to {quote(to)}`.",
    )


def _around(storage: Storage) -> str | None:
    """The index that a place is inside of, if any."""
    if isinstance(storage, Folder):
        # Also where the place is reached by a link.
        for folder in (*storage.root.parents, *Path(os.path.realpath(storage.root)).parents):
            with suppress(OSError):
                if (folder / layout.ROOT).is_file():
                    return str(folder)
        return None
    bucket, *parts = storage.url.partition("://")[2].split("/")
    scheme = storage.url.partition("://")[0]
    for length in range(len(parts) - 1, -1, -1):
        url = f"{scheme}://{'/'.join((bucket, *parts[:length]))}"
        # Who may use this prefix only is not told what is above.
        with suppress(StorageFailed, NotWritable):
            if open_storage(url).stat(layout.ROOT) is not None:
                return url
    return None


def _foreign(storage: Storage) -> list[str]:
    """A few names of what no index has."""
    found = []
    for one in storage.list(""):
        if _is_ours(storage, one.key):
            continue
        found.append(one.key)
        if len(found) > _SHOWN:
            return [*found[:_SHOWN], "more"]
    return found


def _is_ours(storage: Storage, key: str) -> bool:
    if key.startswith(layout.FILES):
        return layout.content_of(key) is not None
    if key.startswith((layout.MANIFEST, layout.JOURNAL)):
        return _PARTS.fullmatch(key) is not None
    return key.startswith((layout.LANDING, layout.JSON_ROOT)) or _is_page(storage, key)


def _is_page(storage: Storage, key: str) -> bool:
    from vllm_builder.index.pages import revision_of

    name = key.rpartition("/")[2]
    if name not in {layout.HTML, layout.JSON, ""}:
        return False
    blob = storage.read(key, limit=1024)
    return blob is not None and (revision_of(blob.data) >= 0 or b"vllm-builder" in blob.data)


def _was_an_index(storage: Storage) -> bool:
    """A publisher that was ended before the first root leaves content, its journal, and shards of revision 1."""
    for one in storage.list(""):
        if one.key.startswith((layout.FILES, layout.JOURNAL)):
            continue
        if not one.key.startswith(layout.MANIFEST):
            return True
        blob = storage.read(one.key)
        try:
            if blob is not None and int(json.loads(blob.data)["revision"]) > 1:
                return True
        except (ValueError, KeyError, TypeError):
            return True
    return False
