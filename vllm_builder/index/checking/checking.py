"""Walk an index, and say what is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from shlex import quote
from typing import TYPE_CHECKING, Final

from vllm_builder.errors import CheckFailed, IndexDamaged
from vllm_builder.events import Emit, StageFinished, StageStarted, ignore
from vllm_builder.index import layout
from vllm_builder.index.checking.content import check_content
from vllm_builder.index.checking.pages import check_pages
from vllm_builder.index.checking.rest import check_rest, check_waiting
from vllm_builder.index.checking.walk import SETTLED, CheckReport, Counted, Walk, journal, pages_of
from vllm_builder.index.manifest import Clock, Snapshot, load, utc_now
from vllm_builder.index.storage.base import Storage
from vllm_builder.stages.verify.model import Finding

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

_ORDER: Final = ("error", "warning", "info")
_ROUNDS: Final = 3


def check(
    storage: Storage,
    *,
    quick: bool = False,
    provenance: bool = False,
    keys: Sequence[SSlibKey] = (),
    max_age: timedelta | None = None,
    jobs: int = 8,
    clock: Clock = utc_now,
    emit: Emit = ignore,
) -> CheckReport:
    """Walk everything: manifest, wheels, what lies beside them, pages, leftovers. Nothing is changed.

    Where somebody publishes meanwhile and something seems wrong, it is looked at again.

    Args:
        quick: do not read the wheels themselves.
        provenance: hold the statement beside each wheel against it.
        keys: public keys, one of which must have signed.
        max_age: how old the newest nightly of each variant may be.
        jobs: how many things are read at once.

    Raises:
        StorageFailed: the place cannot be reached, or refuses.
    """
    started = time.monotonic()
    emit(StageStarted(stage="index", title=f"Check {storage.url}"))
    known: dict[str, tuple[Finding, ...]] = {}
    read = Counted()
    for _ in range(_ROUNDS):
        findings: list[Finding] = []
        snapshot, broken = _manifest(storage, findings)
        if snapshot is None:
            return _report(storage, None, findings, (0, 0), 0, started, quick)
        walk = Walk(
            storage=storage,
            snapshot=snapshot,
            stats={stat.key: stat for stat in storage.list("")},
            now=clock(),
            quick=quick,
            provenance=provenance,
            keys=keys,
            jobs=jobs,
            emit=emit,
            known=known,
            read=read,
            broken=broken,
        )
        pending = frozenset(
            page
            for _, entry in journal(storage)
            if entry is not None and abs(walk.now - entry.begun) <= SETTLED
            for page in entry.pages
        )
        findings += check_content(walk)
        # Variants of a channel share its signpost: what is wrong with it is one fault.
        findings += dict.fromkeys(check_pages(walk, pending))
        findings += check_waiting(walk, max_age)
        findings += check_rest(walk, pending)
        if not any(one.severity == "error" for one in findings) or not _moved(storage, snapshot):
            break
    files = list(walk.files())
    report = _report(
        storage, snapshot, findings, (len(files), len(pages_of(files))), read.total, started, quick
    )
    emit(StageFinished(stage="index", seconds=report.seconds, summary=tally(report)))
    return report


def judge(report: CheckReport, *, strict: bool = False) -> None:
    """Raises:
    CheckFailed: there is an error, or with ``strict`` a warning.
    """
    bad = [f for f in report.findings if f.severity == "error" or (strict and f.severity == "warning")]
    if bad:
        raise CheckFailed(
            f"The index {report.url} is not in order: {tally(report)}.",
            why=bad[0].what,
            next=bad[0].cure,
            details=[f"{one.severity} {one.check}: {one.what}" for one in bad],
        )


def tally(report: CheckReport) -> str:
    """``1 error, 2 warnings``."""
    counts = {s: sum(one.severity == s for one in report.findings) for s in ("error", "warning")}
    said = [f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n]
    return ", ".join(said) or "no error"


def _manifest(storage: Storage, findings: list[Finding]) -> tuple[Snapshot | None, set[tuple[str, str]]]:
    broken: set[tuple[str, str]] = set()
    cure = f"Put it back from a backup; without one: `vllm-builder index rebuild --from-shards --to {quote(storage.url)}`."
    try:
        snapshot = load(storage)
    except IndexDamaged as error:
        findings.append(_damage("root-damaged", error, layout.ROOT, cure))
        return None, broken
    if snapshot is None:
        findings.append(
            Finding(
                check="root-missing",
                severity="error",
                what=f"{layout.ROOT} is missing.",
                where=layout.ROOT,
                why="It names all that is there. What is served stays, and nothing can be changed.",
                cure=cure,
            )
        )
        return None, broken
    for ref in snapshot.root.shards:
        try:
            snapshot.shard(ref.project, ref.variant)
        except IndexDamaged as error:
            broken.add((ref.project, ref.variant))
            findings.append(_damage("shard-damaged", error, ref.key, cure))
    return snapshot, broken


def _damage(check: str, error: IndexDamaged, where: str, cure: str) -> Finding:
    return Finding(check=check, severity="error", what=error.what, where=where, why=error.why, cure=cure)


def _moved(storage: Storage, snapshot: Snapshot) -> bool:
    try:
        now = load(storage)
    except IndexDamaged:
        return False
    return now is not None and now.root.revision != snapshot.root.revision


def _report(
    storage: Storage,
    snapshot: Snapshot | None,
    findings: list[Finding],
    counts: tuple[int, int],
    read: int,
    started: float,
    quick: bool,
) -> CheckReport:
    return CheckReport(
        url=storage.url,
        revision=snapshot.root.revision if snapshot else 0,
        findings=tuple(sorted(findings, key=lambda f: (_ORDER.index(f.severity), f.check, f.where, f.what))),
        files=counts[0],
        pages=counts[1],
        bytes_read=read,
        seconds=round(time.monotonic() - started, 3),
        quick=quick,
    )
