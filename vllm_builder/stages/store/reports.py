"""What verifying and pruning report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_builder.stages.store.model import iso


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of checking one generation.

    ``newer`` is an entry of a later version of this program, which this one cannot judge.
    """

    digest: str
    generation: int
    folder: Path
    state: Literal["intact", "damaged", "newer"]
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {
            "digest": self.digest,
            "generation": self.generation,
            "path": str(self.folder),
            "state": self.state,
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """``bytes_read`` counts what was hashed."""

    checked: tuple[Checked, ...]
    bytes_read: int = 0

    @property
    def damaged(self) -> tuple[Checked, ...]:
        return tuple(c for c in self.checked if c.state == "damaged")

    def with_(self, other: VerifyReport) -> VerifyReport:
        """Both together."""
        return VerifyReport((*self.checked, *other.checked), self.bytes_read + other.bytes_read)

    @property
    def ok(self) -> bool:
        return not self.damaged

    def as_dict(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "bytes_read": self.bytes_read,
            "checked": [c.as_dict() for c in self.checked],
        }


CacheKind = Literal[
    "downloads",
    "git",
    "surveys",
    "memo",
    "environments",
    "toolkits",
    "bundles",
    "smoke",
    "exports",
    "ccache",
    "sccache",
    "passes",
    "native",
]
WheelKind = Literal["wheel", "superseded", "damaged"]
Reason = Literal[
    "last good wheel of its plan",
    "in use by a running build",
    "in use by a running smoke test",
    "could not be removed",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that may be removed: ``size`` in bytes, ``last_used`` in seconds since the epoch."""

    kind: WheelKind | CacheKind
    name: str
    path: Path
    size: int
    last_used: float

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "size": self.size,
            "last_used": iso(self.last_used),
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """A thing that a rule would have removed, and why it stayed."""

    item: Item
    reason: Reason

    def as_dict(self) -> dict[str, object]:
        return {**self.item.as_dict(), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class PruneReport:
    """``removed`` went (or would go, in a dry run); ``kept`` matched a rule and stayed; sizes in bytes."""

    removed: tuple[Item, ...] = ()
    kept: tuple[Kept, ...] = ()
    remaining: int = 0
    """Number of things left."""
    remaining_size: int = 0
    dry_run: bool = False

    def with_(self, other: PruneReport) -> PruneReport:
        """Both together."""
        return PruneReport(
            (*self.removed, *other.removed),
            (*self.kept, *other.kept),
            self.remaining + other.remaining,
            self.remaining_size + other.remaining_size,
            self.dry_run,
        )

    @property
    def freed(self) -> int:
        return sum(item.size for item in self.removed)

    def as_dict(self) -> dict[str, object]:
        return {
            "dry_run": self.dry_run,
            "freed": self.freed,
            "removed": [i.as_dict() for i in self.removed],
            "kept": [k.as_dict() for k in self.kept],
            "remaining": self.remaining,
            "remaining_size": self.remaining_size,
        }
