"""The page for people: static files from which a person learns which line to type.

::

    index.html                          the page; all that it loads lies beside it
    landing/page-DIGEST.js, .css        its code and looks: named by their content, never changed
    landing/index.js                    projects and variants
    landing/PROJECT/VARIANT/index.js    one short row per wheel, to choose from
    landing/PROJECT/VARIANT/index.html  its channels as links, for a browser without JavaScript
    landing/PROJECT/VARIANT/VERSION.js  all about the wheels of one version; loaded when it is chosen

A change makes anew what belongs to the variants that it touched, whatever else there is. Each file carries the revision of
the manifest that it was made of, as pages do, and is never replaced by an older one. What holds data is a script that calls
one function with JSON: a page that was opened as a file may load scripts, but not read files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from vllm_builder.index import layout
from vllm_builder.index.landing import data, html
from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.model import File, Page
from vllm_builder.index.pages import HTML_TYPE, put_all
from vllm_builder.index.storage.base import IMMUTABLE, Exists, Storage

JS_TYPE: Final = "text/javascript; charset=utf-8"
CSS_TYPE: Final = "text/css; charset=utf-8"

__all__ = ["objects", "write"]


def write(
    storage: Storage, snapshot: Snapshot, versions: Iterable[str], pages: Iterable[Page] | None = None
) -> int:
    """Bring the landing page to the state of a snapshot.

    Args:
        versions: ``"PROJECT VERSION"`` of what may have changed.
        pages: the pages that changed with them, which tell the variants; None: every variant of their projects.

    Returns:
        how many objects were written.

    Raises:
        IndexDamaged: a shard cannot be read.
        StorageFailed and its like: see :class:`Storage`.
    """
    for key, content, kind in _assets():
        if storage.stat(key) is None:
            with suppress(Exists):
                storage.create(key, content, content_type=kind, cache_control=IMMUTABLE)
    touched = {(project, version) for project, _, version in (one.partition(" ") for one in versions)}
    if pages is None:
        projects = {project for project, _ in touched}
        shards = {(ref.project, ref.variant) for ref in snapshot.root.shards if ref.project in projects}
    else:
        shards = {(page.project, page.variant) for page in pages if page.project}
    # What a page loads is there before what names it.
    parts = [part for shard in sorted(shards) for part in _of_shard(storage, snapshot, *shard, touched)]
    summaries = [part for part in parts if part[0].endswith(("/index.js", "/index.html"))]
    details = [part for part in parts if part not in summaries]
    return sum(put_all(storage, some) for some in (details, summaries, _of_root(storage, snapshot)))


def objects(storage: Storage, snapshot: Snapshot) -> Iterator[tuple[str, bytes, str]]:
    """Key, content and type of all that the landing page of a snapshot is: for ``rebuild`` and ``check``."""
    yield from _assets()
    for shard in snapshot.shards():
        touched = {(shard.project, file.version) for file in shard.files}
        yield from _of_shard(storage, snapshot, shard.project, shard.variant, touched)
    yield from _of_root(storage, snapshot)


def _assets() -> Iterator[tuple[str, bytes, str]]:
    script, style = html.assets()
    yield script.key, script.content, JS_TYPE
    yield style.key, style.content, CSS_TYPE


def _of_root(storage: Storage, snapshot: Snapshot) -> Iterator[tuple[str, bytes, str]]:
    yield (
        layout.LANDING + "index.js",
        data.index(snapshot.root, layout.JSON_ROOT if storage.slash_keys else ""),
        JS_TYPE,
    )
    yield layout.LANDING_PAGE, html.page(snapshot.root), HTML_TYPE


def _of_shard(
    storage: Storage, snapshot: Snapshot, project: str, variant: str, touched: set[tuple[str, str]]
) -> Iterator[tuple[str, bytes, str]]:
    shard = snapshot.shard(project, variant)
    revision = snapshot.root.revision
    by_version: dict[str, list[File]] = {
        version: [] for touched_project, version in touched if touched_project == project
    }
    for file in shard.files:
        if file.version in by_version:
            by_version[file.version].append(file)
    base = f"{layout.LANDING}{project}/{variant}"
    for version, files in sorted(by_version.items()):
        key = f"{base}/{version}.js"
        # A version that was deleted stays as an empty one: a slower publisher must not bring it back.
        if files or storage.stat(key) is not None:
            yield key, data.details(storage, revision, project, variant, version, files), JS_TYPE
    yield f"{base}/index.js", data.summary(shard, revision), JS_TYPE
    yield f"{base}/index.html", html.variant(shard, revision), HTML_TYPE
