"""A report as a typed value: what ``vllm-builder report --json`` prints.

Seconds of units and samples count from the beginning of their run, those of stages from the beginning of the build.
Moments are UTC, ISO 8601. Memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vllm_builder.model import Model

Outcome = Literal["built", "failed", "interrupted", "broken off", "running"]
"""``broken off``: the process was killed, or the machine went down; ``running``: a builder holds the tree now."""
UnitKind = Literal["compile", "link", "other"]
Answer = Literal["hit", "miss", "uncacheable", ""]


class PlanFacts(Model):
    """What was built. ``archs`` as TORCH_CUDA_ARCH_LIST spells them; ``torch`` is empty for device ``empty``."""

    digest: str
    release: str
    version: str
    device: str
    archs: tuple[str, ...] = ()
    torch: str = ""
    build_type: str = ""
    compilers: tuple[str, ...] = ()
    """``CXX GNU 12.2.0``."""
    compiler_cache: str = "off"
    extensions: tuple[str, ...] = ()
    """The only extensions that were built; empty: all."""


class Machine(Model):
    """Where it was built: ``cores`` that the builder may use, ``memory`` of the whole machine."""

    cores: int = 0
    memory: int = 0
    system: str = ""


class Fault(Model):
    """The error that ended a build, as the command line showed it."""

    name: str
    exit_code: int
    what: str
    why: str = ""


class Stage(Model):
    """A stage of the pipeline. ``finished`` is False for the one that a build ended in."""

    name: str
    start: float
    seconds: float
    summary: str = ""
    finished: bool = True


class UnitPhase(Model):
    """CPU seconds of one program below a compiler's driver (``cicc``, ``ptxas``, ``cc1plus``), as sampled once a second."""

    name: str
    seconds: float


class Unit(Model):
    """One edge that ninja ran."""

    name: str
    """The source file relative to the tree; for what is linked the file that comes out."""
    output: str
    """As ninja names it, relative to the build folder."""
    extension: str = ""
    """The CMake target: ``_C``."""
    kind: UnitKind = "other"
    start: float
    seconds: float
    slot: int = 0
    """A row of the timeline, from 0: the first one that was free. ninja does not say which job it was."""
    peak: int = 0
    """Largest resident memory of its compiler's processes together, as sampled once a second; 0: not seen."""
    cache: Answer = ""
    """What the compiler cache answered; empty where there is none, or it does not say so of single units."""
    phases: tuple[UnitPhase, ...] = ()
    """The longest first; what was over between two samples is not in them."""


class Sample(Model):
    """``memory`` of all processes below setup.py at a moment, and how many ``compilers`` ran."""

    at: float
    memory: int
    compilers: int


class Run(Model):
    """One run of setup.py: several where a build was resumed, or went on with fewer jobs."""

    number: int
    began: str
    seconds: float
    jobs: int = 0
    earlier: bool = False
    """It belongs to a build before this one, which was broken off or failed; its units were not compiled again."""
    ended: str = ""
    """How it ended where it did not end well, in words."""
    units: tuple[Unit, ...] = ()
    samples: tuple[Sample, ...] = ()


class Phase(Model):
    """A part of the time of compiling. ``seconds`` is wall time, ``core_seconds`` the sum over units."""

    name: str
    seconds: float
    core_seconds: float = 0
    units: int = 0


class Reused(Model):
    """Something that was not made again: ``what``, and how much of it in words."""

    what: str
    detail: str


class Figures(Model):
    """What one build comes to in numbers; what is not known is None."""

    seconds: float | None = None
    """Wall time from the first stage to the last, without waiting for other builders."""
    stages: Mapping[str, float] = {}
    units: int | None = None
    """Units that were compiled or linked by this build itself."""
    core_seconds: float | None = None
    jobs: int | None = None
    hits: int | None = None
    misses: int | None = None
    peak_memory: int | None = None
    resumed_from: int | None = None


class Change(Model):
    """The time of one unit then and now."""

    name: str
    before: float
    now: float


class Comparison(Model):
    """The build that this one is held against, and why that one."""

    digest: str
    version: str
    began: str
    why: str
    """``the same plan``; ``the last build of 0.9.2 for cpu``."""
    figures: Figures
    differs: tuple[str, ...] = ()
    """What else was different, so that figures are not to be held against each other without thought."""
    changes: tuple[Change, ...] = ()
    """Units whose time changed most, the largest change first; units that a cache answered are left out."""
    kept: int = 0
    """Units that both builds compiled."""


class Report(Model):
    """All about one build."""

    layout: Literal[1] = 1
    builder: str
    """Version of vllm-builder that built."""
    plan: PlanFacts
    machine: Machine = Machine()
    outcome: Outcome
    fault: Fault | None = None
    began: str
    figures: Figures
    stages: tuple[Stage, ...] = ()
    phases: tuple[Phase, ...] = ()
    """Of compiling: configure, each extension, linking, packing."""
    runs: tuple[Run, ...] = ()
    reused: tuple[Reused, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    comparison: Comparison | None = None
    remarks: tuple[str, ...] = ()
    """What this report could not tell, and why."""
