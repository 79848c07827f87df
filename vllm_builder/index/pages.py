"""The pages that pip and uv read, made of the manifest: HTML and JSON (PEP 503, 592, 629, 658, 691, 700, 714).

A page carries the revision of the manifest that it was made of, and is only ever replaced by one of a later revision. So a
slow publisher cannot put an older state over a newer one.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from simple_repository import model as simple
from simple_repository.serializer import SerializerHtmlV1, SerializerJsonV1

from vllm_builder.index import layout
from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.model import File, Page
from vllm_builder.index.storage.base import FRESH, Changed, Storage

# What 1.1 (PEP 700) asks for is all there. Of what came later nothing would be true here: a provenance of PEP 740 is
# signed by a publisher's identity, and a project without a status (PEP 792) is active.
API_VERSION: Final = "1.1"
HTML_TYPE: Final = "text/html; charset=utf-8"
JSON_TYPE: Final = "application/vnd.pypi.simple.v1+json"

_REVISION: Final = re.compile(rb'"_revision": ?(\d+)|<meta name="vllm-builder:revision" content="(\d+)">')
# Whoever leaves the variant out of an address: it never changes, so its revision is the first one.
_SIGNPOST: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="vllm-builder:revision" content="1">
<meta name="viewport" content="width=device-width">
<title>Channel {channel}</title>
</head>
<body>
<h1>Channel {channel}</h1>
<p>pip and uv take the address of a variant in this channel, such as <code>{channel}/cu130/</code>.
<a href="../index.html#channel={channel}">Choose a wheel, and get the line to type.</a></p>
</body>
</html>
"""
_HEAD: Final = 1024
"""Bytes within which a page's revision stands."""


def render(snapshot: Snapshot, page: Page) -> tuple[bytes, bytes]:
    """The HTML and the JSON of a page, with links that start at the page's own folder.

    Raises:
        IndexDamaged: a shard cannot be read.
    """
    meta = simple.Meta(API_VERSION, simple.PrivateMetadataMapping({"_revision": snapshot.root.revision}))
    if page.project:
        folder = layout.folder_of(page.channel, page.variant, page.project)
        files = [f for f in snapshot.shard(page.project, page.variant).files if page.channel in f.channels]
        detail = simple.ProjectDetail(
            meta,
            page.project,
            tuple(_file(file, folder) for file in files),
            versions=frozenset(file.version for file in files),
        )
        return _html(detail, snapshot), _json(detail)
    names = sorted(
        ref.project
        for ref in snapshot.root.shards
        if ref.variant == page.variant
        and any(page.channel in file.channels for file in snapshot.shard(ref.project, ref.variant).files)
    )
    projects = simple.ProjectList(meta, frozenset(simple.ProjectListElement(name) for name in names))
    return _html(projects, snapshot), _json(projects)


def write(storage: Storage, snapshot: Snapshot, pages: Iterable[Page]) -> int:
    """Bring pages to the state of a snapshot, or leave those that are newer.

    Returns:
        how many objects were written.

    Raises:
        StorageFailed and its like: see :class:`Storage`.
    """
    return put_all(storage, (one for page in pages for one in objects(storage, snapshot, page)))


def objects(storage: Storage, snapshot: Snapshot, page: Page) -> Iterator[tuple[str, bytes, str]]:
    """Key, content and type of all that a page is in a storage."""
    folder = layout.folder_of(page.channel, page.variant, page.project)
    text, data = render(snapshot, page)
    yield folder + layout.HTML, text, HTML_TYPE
    yield folder + layout.JSON, data, JSON_TYPE
    if storage.slash_keys:
        # Nobody negotiates there: what a client asks for is an object, and the JSON has a root of its own.
        deeper = _one_folder_deeper(data)
        yield folder, text, HTML_TYPE
        yield layout.JSON_ROOT + folder, deeper, JSON_TYPE
        yield layout.JSON_ROOT + folder + layout.HTML, deeper, JSON_TYPE
    if not page.project:
        signpost = _SIGNPOST.format(channel=html.escape(page.channel)).encode()
        yield f"{page.channel}/{layout.HTML}", signpost, HTML_TYPE
        if storage.slash_keys:
            yield f"{page.channel}/", signpost, HTML_TYPE


def is_signpost(key: str) -> bool:
    """Whether it is ``CHANNEL/`` or ``CHANNEL/index.html``: for who leaves the variant out."""
    channel, _, rest = key.partition("/")
    return key == f"{channel}/{rest}" and rest in {"", layout.HTML} and channel not in layout.RESERVED


def revision_of(data: bytes) -> int:
    """Of a page, from its beginning; -1 where it names none."""
    found = _REVISION.search(data[:_HEAD])
    return int(found[1] or found[2]) if found else -1


def unmarked(data: bytes) -> bytes:
    """A page without its revision: for comparing."""
    return _REVISION.sub(b"", data[:_HEAD], count=1) + data[_HEAD:]


def put_all(storage: Storage, made: Iterable[tuple[str, bytes, str]]) -> int:
    """:func:`put` for key, content and type of many, in any order; each names its own revision.

    Returns:
        how many were written.
    """

    def one(made: tuple[str, bytes, str]) -> bool:
        key, data, kind = made
        return put(storage, key, data, kind, revision_of(data))

    if storage.at_once == 1:
        return sum(map(one, made))
    with ThreadPoolExecutor(max_workers=storage.at_once) as pool:
        return sum(pool.map(one, made))


def put(storage: Storage, key: str, data: bytes, kind: str, revision: int) -> bool:
    while True:
        there = storage.read(key, limit=_HEAD)
        if there is not None and revision_of(there.data) >= revision:
            return False
        token = there.token if there is not None else None
        try:
            storage.replace(key, data, content_type=kind, cache_control=FRESH, token=token)
        except Changed:
            continue
        return True


def reason_text(text: str) -> str:
    """A yank reason in one line: what no attribute can hold or a terminal would obey becomes a space."""
    return " ".join("".join(" " if _unfit(c) else c for c in text).split())


def _unfit(c: str) -> bool:
    code = ord(c)
    return (
        unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}
        # These turn the direction of what follows.
        or unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        # These are no characters.
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
    )


def _file(file: File, folder: str) -> simple.File:
    return simple.File(
        filename=file.filename,
        url=layout.relative(file.key, folder),
        hashes={"sha256": file.sha256},
        requires_python=file.requires_python or None,
        dist_info_metadata={"sha256": file.metadata_sha256},
        # Without a reason it is True: an empty one would say that it is not yanked.
        yanked=(reason_text(file.yanked.reason) or True) if file.yanked else None,
        size=file.size,
        upload_time=file.uploaded,
    )


def _html(page: simple.ProjectDetail | simple.ProjectList, snapshot: Snapshot) -> bytes:
    if isinstance(page, simple.ProjectList):
        text = SerializerHtmlV1().serialize_project_list(_sorted(page))
    else:
        # The serialiser writes these as they are.
        files = tuple(
            replace(
                file,
                filename=html.escape(file.filename),
                yanked=html.escape(file.yanked) if isinstance(file.yanked, str) else file.yanked,
            )
            for file in page.files
        )
        text = SerializerHtmlV1().serialize_project_page(replace(page, files=files))
    # Also said here: a static host may name no charset.
    marks = f'<meta charset="utf-8">\n        <meta name="vllm-builder:revision" content="{snapshot.root.revision}">'
    return text.replace("<head>\n", f"<head>\n        {marks}\n", 1).encode()


def _json(page: simple.ProjectDetail | simple.ProjectList) -> bytes:
    if isinstance(page, simple.ProjectList):
        return (SerializerJsonV1().serialize_project_list(_sorted(page)) + "\n").encode()
    found: dict[str, Any] = json.loads(SerializerJsonV1().serialize_project_page(page))
    # A set has no order, and the same state should give the same bytes.
    found["versions"] = sorted(found["versions"])
    for file, entry in zip(page.files, found["files"], strict=True):
        # As PEP 700 has it; the serialiser leaves the fraction of the second out.
        if file.upload_time is not None:
            entry["upload-time"] = file.upload_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return (json.dumps(found) + "\n").encode()


def _one_folder_deeper(page: bytes) -> bytes:
    """The same JSON page for the address ``json/`` + its own."""
    found = json.loads(page)
    for entry in found.get("files", ()):
        entry["url"] = "../" + entry["url"]
    return (json.dumps(found) + "\n").encode()


class _Ordered(frozenset[simple.ProjectListElement]):
    def __iter__(self) -> Iterator[simple.ProjectListElement]:
        return iter(sorted(super().__iter__(), key=lambda one: one.name))


def _sorted(page: simple.ProjectList) -> simple.ProjectList:
    return replace(page, projects=_Ordered(page.projects))
