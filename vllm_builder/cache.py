"""Where things are kept: the user's cache folder and the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache folder (by default the platform's user cache), shared by all workspaces.

    Everything here can be made again; only ``store`` holds something that took hours.
    """

    root: Path

    @property
    def downloads(self) -> Path:
        """Files as they came, under ``sha256/<digest>/<name>``."""
        return self.root / "downloads"

    @property
    def git(self) -> Path:
        """Bare mirrors, one per URL."""
        return self.root / "git"

    @property
    def surveys(self) -> Path:
        """The small files of a release that a plan reads, one folder per source identity."""
        return self.root / "surveys"

    @property
    def memo(self) -> Path:
        """Answers that cost a network call or a process, as small JSON files."""
        return self.root / "memo"

    @property
    def environments(self) -> Path:
        """Build environments, one per interpreter and lock."""
        return self.root / "environments"

    @property
    def toolkits(self) -> Path:
        """CUDA toolkits put together from packages, one per lock."""
        return self.root / "toolkits"

    @property
    def bundles(self) -> Path:
        """Content of the bundles that were used, one folder per manifest."""
        return self.root / "bundles"

    @property
    def ccache(self) -> Path:
        return self.root / "ccache"

    @property
    def sccache(self) -> Path:
        return self.root / "sccache"

    @property
    def passes(self) -> Path:
        """What passes of nvcc made, under the digest of what they were given."""
        return self.root / "passes"

    @property
    def smoke(self) -> Path:
        """Rooms of running smoke tests, ``room-*``, and ``logs`` of those that failed."""
        return self.root / "smoke"

    @property
    def exports(self) -> Path:
        """What libraries of torch builds define, as ``verify`` read them."""
        return self.root / "exports"

    @property
    def units(self) -> Path:
        """What was measured of translation units, one file per toolchain."""
        return self.root / "units"

    @property
    def store(self) -> Path:
        """Finished wheels under the digest of their plan."""
        return self.root / "store"

    @property
    def native(self) -> Path:
        """Native layers under the digest of their inputs: what was compiled, for other wheels."""
        return self.store / "native"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one project's builds (by default ``./build``): trees, logs, output."""

    root: Path

    def tree(self, digest: str) -> Path:
        """The patched tree of a plan. Stable, so that caches hit and a broken-off build goes on."""
        return self.root / "trees" / digest[:16]

    def log(self, digest: str) -> Path:
        return self.root / "logs" / f"{digest[:16]}.log"

    def journal(self, digest: str) -> Path:
        """What was measured of a plan's builds, and how they went: see :mod:`vllm_builder.report.journal`."""
        return self.root / "logs" / f"{digest[:16]}.journal.jsonl"

    def report(self, digest: str) -> Path:
        """The page that is made of it after each build."""
        return self.root / "logs" / f"{digest[:16]}.report.html"

    def dist(self, digest: str) -> Path:
        """What setup.py made, and the finished wheel, until the store has it."""
        return self.root / "dist" / digest[:16]

    def rejected(self, digest: str) -> Path:
        """A wheel that was built and found not to be what was asked for, with the report."""
        return self.root / "rejected" / digest[:16]

    @property
    def out(self) -> Path:
        """Where wheels are handed over unless ``--out`` says otherwise."""
        return self.root / "wheels"
