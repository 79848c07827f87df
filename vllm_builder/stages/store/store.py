"""The store: wheels under the digest of their plan.

Layout below the root::

    <digest>/<generation>/record.json, <wheel>, used     one built wheel; never changed once it is there
    locks/                                               one lock per digest
    tmp/                                                 what is being written
    damaged/                                             what was found damaged, with the reason

A generation is written in ``tmp`` and renamed into its place, so whatever kills the process leaves a
whole one or none. A forced rebuild adds a generation and replaces nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from vllm_builder.errors import StoreError, from_os_error
from vllm_builder.events import Emit, Note, Progress, ignore
from vllm_builder.fs import sha256_file
from vllm_builder.stages.store import scratch, writing
from vllm_builder.stages.store.model import (
    RECORD,
    USED,
    Entry,
    Holder,
    NewerRecord,
    Record,
    Unreadable,
    is_digest,
    read_record,
)
from vllm_builder.stages.store.reports import Checked, PruneReport, VerifyReport
from vllm_builder.stages.store.writing import generations

_STAGE = "store"
_SHORTEST_PREFIX = 4


class Store:
    """Finished wheels below ``root``. Reading works on a store that cannot be written to."""

    def __init__(self, root: Path, *, noun: str = "wheel") -> None:
        self.root = root
        self.noun = noun
        """What lies in it, for messages."""

    # Reading -------------------------------------------------------------------------------------
    def resolve(self, prefix: str) -> str | None:
        """The one digest that begins with ``prefix`` (at least 4 hexadecimal digits), or None.

        Raises:
            StoreError: ``prefix`` is no beginning of a digest, too short, or fits several entries.
        """
        prefix = prefix.strip().lower()
        if not re.fullmatch("[0-9a-f]{1,64}", prefix):
            raise StoreError(
                f"{prefix!r} is not the beginning of a digest.",
                why="A digest is written in the digits 0-9 and a-f, 64 of them.",
                next="`vllm-builder cache list` shows the digests there are.",
            )
        if len(prefix) < _SHORTEST_PREFIX:
            raise StoreError(
                f"{prefix!r} is too short to name an entry.",
                why=f"At least {_SHORTEST_PREFIX} digits are needed.",
                next="`vllm-builder cache list` shows the digests there are.",
            )
        if len(prefix) == 64:
            return prefix if generations(self.root, prefix) else None
        fitting = [d for d in self.digests() if d.startswith(prefix)]
        if len(fitting) > 1:
            raise StoreError(
                f"{prefix!r} fits {len(fitting)} entries of the store.",
                next="Give more digits.",
                details=fitting,
            )
        return fitting[0] if fitting else None

    def named(self, prefix: str) -> str:
        """Like :meth:`resolve`, but a digest that is not there is an error.

        Raises:
            StoreError
        """
        digest = self.resolve(prefix)
        if digest is None:
            raise StoreError(
                f"The store has no entry {prefix}.",
                why=f"It was looked for in {self.root}.",
                next="`vllm-builder cache list` shows the digests there are.",
            )
        return digest

    def find(self, digest_or_prefix: str) -> Entry | None:
        """The newest generation with a readable record; its wheel is not looked at.

        Raises:
            StoreError: an ambiguous or malformed prefix, or no generation's record can be read.
        """
        digest = self.resolve(digest_or_prefix)
        error: StoreError | None = None
        for found in self._scan_one(digest) if digest else ():
            if isinstance(found, Entry):
                return found
            error = error or found.error
        if error:
            raise error
        return None

    def intact(self, entry: Entry) -> list[str]:
        """Check one entry thoroughly: record, folder name, and the size and SHA-256 of the wheel.

        Returns:
            One sentence per problem; empty when intact.
        """
        try:
            record = read_record(entry.folder / RECORD)
        except StoreError as error:
            return [f"{error.what} {error.why}"]
        problems = []
        if record.digest != entry.folder.parent.name:
            problems.append(f"The record belongs to the plan {record.digest}.")
        wheel = entry.folder / record.wheel.filename
        try:
            size = wheel.stat().st_size
            if size != record.wheel.size:
                problems.append(f"{wheel.name} is {size} bytes long and should be {record.wheel.size}.")
            elif (found := sha256_file(wheel)) != record.wheel.sha256:
                problems.append(f"{wheel.name} has the sha256 {found} and should have {record.wheel.sha256}.")
        except FileNotFoundError:
            problems.append(f"{wheel.name} is missing.")
        except OSError as error:
            problems.append(f"{wheel.name} cannot be read: {error.strerror or error}.")
        return problems

    def get(self, digest: str, *, emit: Emit = ignore) -> Entry | None:
        """The newest intact wheel of a plan, its SHA-256 checked, or None: it has to be built.

        A damaged generation on the way is moved to ``damaged/`` (where the store can be written to) and
        never served; a Note says so.

        Raises:
            StoreError: all there is was written by a newer version of this program.
        """
        _check_digest(digest)
        newer: NewerRecord | None = None
        for found in self._scan_one(digest):
            if isinstance(found, Unreadable):
                if isinstance(found.error, NewerRecord):
                    newer = newer or found.error
                    continue
                problems = [f"{found.error.what} {found.error.why}"]
            else:
                problems = self.intact(found)
                if not problems:
                    self.touch(found)
                    return found
            # A builder elsewhere may have moved or pruned it while it was being read.
            if found.folder.exists():
                outcome = writing.set_aside(self.root, found.digest, found.folder, problems)
                text = " ".join(
                    (f"The stored {self.noun} {digest[:12]} is damaged, so not used.", *problems, outcome)
                )
                emit(Note(stage=_STAGE, level="warning", message=text))
        if newer:
            raise newer
        return None

    def touch(self, entry: Entry) -> None:
        """Remember that the entry was used now; a store that cannot be written to is left as it is."""
        with suppress(OSError):
            os.utime(entry.folder / USED)

    def digests(self) -> list[str]:
        """All digests with at least one generation, sorted."""
        try:
            names = [path.name for path in self.root.iterdir() if is_digest(path.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise from_os_error(error, f"reading the store {self.root}") from error
        return sorted(name for name in names if generations(self.root, name))

    def generations(self, digest: str) -> list[Entry | Unreadable]:
        """Every generation of one digest, the newest first."""
        return list(self._scan_one(digest))

    def scan(self) -> list[Entry | Unreadable]:
        """Every generation of every digest, the newest of each first."""
        return [found for digest in self.digests() for found in self._scan_one(digest)]

    def entries(self) -> list[Entry]:
        """Every generation whose record can be read; see :meth:`scan` for the others."""
        return [found for found in self.scan() if isinstance(found, Entry)]

    def verify(self, digests: Iterable[str] | None = None, *, emit: Emit = ignore) -> VerifyReport:
        """Check entries thoroughly and change nothing.

        Args:
            digests: digests or prefixes; None checks all.

        Raises:
            StoreError: a prefix is ambiguous or names nothing.
        """
        if digests is None:
            found = self.scan()
        else:
            found = [f for digest in dict.fromkeys(map(self.named, digests)) for f in self._scan_one(digest)]
        total = sum(f.record.wheel.size for f in found if isinstance(f, Entry))
        checked: list[Checked] = []
        done = 0
        for item in found:
            where = (item.digest, item.generation, item.folder)
            if isinstance(item, Unreadable):
                newer = isinstance(item.error, NewerRecord)
                text = f"{item.error.what} {item.error.why}"
                checked.append(Checked(*where, "newer" if newer else "damaged", (text,)))
                continue
            emit(
                Progress(
                    stage=_STAGE, task="verify", done=done, total=total, unit="B", current=(item.wheel.name,)
                )
            )
            problems = tuple(self.intact(item))
            checked.append(Checked(*where, "damaged" if problems else "intact", problems))
            done += item.record.wheel.size
        emit(Progress(stage=_STAGE, task="verify", done=done, total=total, unit="B"))
        return VerifyReport(tuple(checked), bytes_read=done)

    # Writing -------------------------------------------------------------------------------------
    def add(
        self, digest: str, wheel: Path, record: Record, *, force: bool = False, emit: Emit = ignore
    ) -> Entry:
        """Copy a wheel into the store, whole or not at all. Call it while holding :meth:`lock`.

        An intact entry that is there already is kept and returned, unless ``force`` adds a new generation
        before it; either way nothing that was there is lost.

        Raises:
            StoreError: the wheel is not the one that the record describes, or not a whole one (--extensions).
            NoSpace, NotWritable: nothing was added.
        """
        _check_digest(digest)
        if record.digest != digest:
            raise StoreError(
                f"The record belongs to the plan {record.digest[:12]}, not to {digest[:12]}.",
                next="Build with the digest of the plan that was compiled.",
            )
        if record.extensions:
            raise StoreError(
                "A wheel with chosen extensions only is not stored.",
                why=f"It holds {', '.join(record.extensions)} and is for development.",
                next="Build without --extensions for the whole wheel.",
            )
        if not force and (there := self.get(digest, emit=emit)):
            return there
        scratch.sweep(self.root)
        number, folder = writing.write(self.root, wheel, record)
        return Entry(digest, number, folder, record)

    def lock(
        self, digest: str, *, timeout: float | None = None, emit: Emit = ignore
    ) -> AbstractContextManager[None]:
        """Hold the lock of a digest, so that two builders of one plan compile once.

        The second waits (for ``timeout`` seconds; None: as long as it takes) and a Note says for whom.
        Look for the entry again once the lock is held.

        Raises:
            Busy: ``timeout`` ran out.
            NotWritable: the store cannot be written to.
        """
        from vllm_builder.stages.store import locking

        _check_digest(digest)
        return locking.hold(self.root, digest, noun=self.noun, timeout=timeout, emit=emit)

    def prune(
        self,
        *,
        older_than: float | None = None,
        max_size: int | None = None,
        keep: int | None = None,
        only: Collection[str] | None = None,
        last_good: bool = False,
        dry_run: bool = False,
        emit: Emit = ignore,
    ) -> PruneReport:
        """Make room; see :func:`vllm_builder.stages.store.prune`."""
        from vllm_builder.stages.store.pruning import prune

        return prune(
            self,
            older_than=older_than,
            max_size=max_size,
            keep=keep,
            only=only,
            last_good=last_good,
            dry_run=dry_run,
            emit=emit,
        )

    def running(self) -> list[Holder]:
        """The builds that hold a lock now."""
        from vllm_builder.stages.store import locking

        return locking.running(self.root)

    # Inside --------------------------------------------------------------------------------------
    def _scan_one(self, digest: str) -> Iterator[Entry | Unreadable]:
        for number, folder in generations(self.root, digest):
            try:
                yield Entry(digest, number, folder, read_record(folder / RECORD))
            except StoreError as error:
                yield Unreadable(digest, number, folder, error)


def _check_digest(digest: str) -> None:
    if not is_digest(digest):
        raise StoreError(
            f"{digest!r} is not a digest.",
            why="A digest has 64 of the digits 0-9 and a-f.",
            next="Take it from `vllm-builder plan` or `vllm-builder cache list`.",
        )
