"""What the checks of one run share, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from vllm_builder.events import Emit, Progress
from vllm_builder.index import layout
from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.model import Entry, File, Page
from vllm_builder.index.storage.base import Stat, Storage
from vllm_builder.model import Model
from vllm_builder.stages.verify.model import Finding

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

T = TypeVar("T")
SETTLED: Final = timedelta(minutes=2)
"""So long a publisher may take from the manifest to its last page."""


class CheckReport(Model):
    """``findings`` worst first. An index is good when no finding is an error."""

    url: str
    revision: int
    findings: tuple[Finding, ...]
    files: int
    pages: int
    bytes_read: int
    seconds: float
    quick: bool

    @property
    def good(self) -> bool:
        return all(one.severity != "error" for one in self.findings)


class Counted:
    """Bytes that several threads have read."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.total += count


@dataclass
class Walk:
    """``stats``: all that lies in the index. ``known``: what the content of a key was found to be, by earlier rounds."""

    storage: Storage
    snapshot: Snapshot
    stats: dict[str, Stat]
    now: datetime
    quick: bool
    provenance: bool
    keys: Sequence[SSlibKey]
    jobs: int
    emit: Emit
    known: dict[str, tuple[Finding, ...]]
    read: Counted
    broken: set[tuple[str, str]] = field(default_factory=set)
    """(project, variant) whose shard cannot be read."""
    expected: set[str] = field(default_factory=set)
    """Keys that belong to the index."""

    def files(self) -> Iterator[tuple[str, File]]:
        """Variant and file of all that can be read."""
        for ref in self.snapshot.root.shards:
            if (ref.project, ref.variant) not in self.broken:
                for file in self.snapshot.shard(ref.project, ref.variant).files:
                    yield ref.variant, file

    def each(self, what: str, todo: Iterable[T], one: Callable[[T], Iterable[Finding]]) -> Iterator[Finding]:
        """Look at many things at once, and tell how far it is."""
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            running = [pool.submit(lambda item: list(one(item)), item) for item in todo]
            try:
                for number, done in enumerate(as_completed(running), 1):
                    yield from done.result()
                    tell(self.emit, what, number, len(running))
            finally:
                for one_left in running:
                    one_left.cancel()


def tell(emit: Emit, what: str, done: int, total: int) -> None:
    """How far it is, in some hundred steps at most."""
    if done == total or done % max(1, total // 100) == 0:
        emit(Progress(stage="index", task=what, done=done, total=total, unit=what))


def journal(storage: Storage) -> Iterator[tuple[Stat, Entry | None]]:
    """Changes whose pages may not be written yet; None: not to be read."""
    for stat in storage.list(layout.JOURNAL):
        blob = storage.read(stat.key)
        if blob is None:
            continue
        try:
            yield stat, Entry.model_validate_json(blob.data)
        except ValidationError:
            yield stat, None


def pages_of(files: Iterable[tuple[str, File]]) -> set[Page]:
    """The pages that name at least one of these files."""
    found = set()
    for variant, file in files:
        for channel in file.channels:
            found.add(Page(channel=channel, variant=variant, project=file.project))
            found.add(Page(channel=channel, variant=variant))
    return found
