"""Pages: those that installers read, and those for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from vllm_builder.errors import IndexDamaged
from vllm_builder.index import landing, layout, pages
from vllm_builder.index.checking.walk import Walk, pages_of
from vllm_builder.index.manifest import load
from vllm_builder.index.model import File, Page
from vllm_builder.stages.verify.model import Finding, Severity

_BASE: Final = "https://index.invalid/"


def check_pages(walk: Walk, pending: frozenset[Page]) -> Iterator[Finding]:
    """Every page, byte for byte but for its revision.

    Args:
        pending: pages that a publisher is about to write.
    """
    wanted = sorted(pages_of(walk.files()), key=lambda one: (one.channel, one.variant, one.project))
    yield from walk.each("pages", wanted, lambda page: _page(walk, page, page in pending))
    if not walk.broken:
        try:
            people = list(landing.objects(walk.storage, walk.snapshot))
        except IndexDamaged:
            return
        yield from walk.each(
            "landing pages",
            people,
            lambda one: _object(walk, *one, severity="info" if pending else "warning"),
        )


def check_gone(walk: Walk, page: Page, pending: bool) -> Iterator[Finding]:
    """A page that no file asks for: it stays, empty, so that a slow publisher cannot bring an older one back."""
    yield from _page(walk, page, pending)


def _page(walk: Walk, page: Page, pending: bool) -> Iterator[Finding]:
    try:
        objects = list(pages.objects(walk.storage, walk.snapshot, page))
    except IndexDamaged:
        return  # told of with the manifest
    found = [
        one
        for key, data, kind in objects
        for one in _object(walk, key, data, kind, severity="info" if pending else "error", page=page)
    ]
    yield from found
    if not found and page.project and not walk.quick:
        yield from _as_read(walk, page)


def _object(
    walk: Walk, key: str, data: bytes, kind: str, *, severity: Severity, page: Page | None = None
) -> Iterator[Finding]:
    walk.expected.add(key)
    there = walk.storage.read(key)
    revision = walk.snapshot.root.revision
    rebuild = f"`vllm-builder index rebuild --to {quote(walk.storage.url)}` writes it."
    if severity == "info":
        rebuild = "Somebody is publishing: it is written in a moment."
    if there is None:
        yield _finding("page-missing", severity, f"The page {key} is missing.", key, rebuild)
        return
    walk.read.add(len(there.data))
    made = pages.revision_of(there.data)
    if made > revision:
        if made <= _revision_now(walk):
            return  # somebody published meanwhile
        yield _finding(
            "page-newer",
            severity,
            f"The page {key} was made of revision {made}, and the manifest has {revision}.",
            key,
            f"Was an older manifest put back? {rebuild}",
        )
    elif pages.unmarked(there.data) == pages.unmarked(data):
        pass
    elif severity == "error" and _still_right(walk, page, key, there.data, kind):
        yield _finding(
            "page-differs",
            "warning",
            f"The page {key} is written in another way than this vllm-builder does; clients read the right thing.",
            key,
            rebuild,
            why="Another version wrote it, or somebody edited it.",
        )
    else:
        since = _changed_in(walk, page)
        stale = 0 <= made < since
        yield _finding(
            "page-stale" if stale else "page-altered",
            severity,
            f"The page {key} is of revision {made}, its files changed in {since}, and it does not show what they are now."
            if stale
            else f"The page {key} is not what was written.",
            key,
            rebuild,
        )
    served = walk.storage.content_type(key)
    if served is not None and served.replace(" ", "").lower() != kind.replace(" ", "").lower():
        yield _finding(
            "content-type",
            "error",
            f"The page {key} is served as {served or 'nothing'}, not as {kind}.",
            key,
            "Delete it, and " + rebuild.replace("writes it", "writes it anew"),
            why="pip and uv refuse a page of another type.",
        )


def _revision_now(walk: Walk) -> int:
    try:
        now = load(walk.storage)
    except IndexDamaged:
        return -1
    return now.root.revision if now is not None else -1


def _changed_in(walk: Walk, page: Page | None) -> int:
    """The revision in which the files of a page were changed last, at the latest."""
    if page is None:
        return walk.snapshot.root.revision
    return max(
        (
            ref.revision
            for ref in walk.snapshot.root.shards
            if ref.variant == page.variant and page.project in {"", ref.project}
        ),
        default=walk.snapshot.root.revision,
    )


def _as_read(walk: Walk, page: Page) -> Iterator[Finding]:
    """What clients make of HTML and JSON is what the manifest says, and each link leads to its file."""
    folder = layout.folder_of(page.channel, page.variant, page.project)
    for name in (layout.HTML, layout.JSON):
        blob = walk.storage.read(folder + name)
        wrong = _misread(walk, page, folder + name, blob.data) if blob is not None else ""
        if wrong:
            yield _finding(
                "page-misread",
                "error",
                f"Clients read from {folder + name} something else than the manifest says.",
                folder + name,
                "Please report it: this is a fault of vllm-builder.",
                why=wrong,
            )


def _misread(walk: Walk, page: Page, key: str, data: bytes) -> str:
    """What a client gets wrong of a page; empty: nothing."""
    from pypi_simple import ProjectPage

    files = walk.snapshot.shard(page.project, page.variant).files
    wanted = {file.filename: _facts(file) for file in files if page.channel in file.channels}
    try:
        if data.lstrip().startswith(b"{"):
            read = ProjectPage.from_json_data(json.loads(data), base_url=_BASE + key)
        else:
            read = ProjectPage.from_html(page.project, data.decode(), base_url=_BASE + key)
    except Exception as error:  # noqa: BLE001  # of any parser
        return f"It cannot be read: {error}"
    found = {
        one.filename: (
            unquote(urlsplit(urljoin(_BASE + key, one.url)).path).lstrip("/"),
            one.digests.get("sha256"),
            one.requires_python or "",
            one.is_yanked,
            (one.yanked_reason or "") if one.is_yanked else "",
            (one.metadata_digests or {}).get("sha256"),
        )
        for one in read.packages
    }
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not wrong:
        return ""
    return f"{wrong[0]}: read {found.get(wrong[0])}; in the manifest {wanted.get(wrong[0])}."


def _still_right(walk: Walk, page: Page | None, key: str, data: bytes, kind: str) -> bool:
    """Whether a page of a project that is not the one that this version would write says the same all the same."""
    if page is None or not page.project:
        return False
    folder = layout.folder_of(page.channel, page.variant, page.project)
    mine = key.removeprefix(layout.JSON_ROOT).startswith(folder)
    as_kind = data.lstrip().startswith(b"{") == (kind == pages.JSON_TYPE)
    return mine and as_kind and pages.revision_of(data) >= 0 and not _misread(walk, page, key, data)


def _facts(file: File) -> tuple[str, str, str, bool, str, str]:
    return (
        file.key,
        file.sha256,
        file.requires_python,
        file.yanked is not None,
        pages.reason_text(file.yanked.reason) if file.yanked else "",
        file.metadata_sha256,
    )


def _finding(check: str, severity: Severity, what: str, where: str, cure: str, why: str = "") -> Finding:
    return Finding(check=check, severity=severity, what=what, where=where, cure=cure, why=why)
