"""What the compile stage takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vllm_builder.model import Free, Model

Device = Literal["cuda", "cpu", "empty"]
CompilerCache = Literal["ccache", "sccache", "off"]


class Compiler(Model):
    """A compiler as it was found. ``target`` is its triplet, ``x86_64-linux-gnu``."""

    language: Literal["C", "CXX", "CUDA"]
    id: str
    """CMake's compiler id: ``GNU``, ``Clang``, ``NVIDIA``."""
    version: str
    target: str
    path: Free[str]
    arguments: tuple[str, ...] = ()
    """Arguments that CC or CXX hold besides the compiler: they change what comes out."""
    script: str = ""
    """SHA-256 of the program where it is a script: what it adds to the command line changes what comes out."""


class CompileSpec(Model):
    """Everything that the release's setup.py has to be told."""

    device: Device
    archs: tuple[str, ...] = ()
    """As TORCH_CUDA_ARCH_LIST spells them, sorted: ``("10.0", "12.0a")``."""
    build_type: str = "Release"
    version: str
    """The version that the wheel must carry: ``0.9.2+cpu``."""
    scm_version: Free[str]
    """What SETUPTOOLS_SCM_PRETEND_VERSION must be so that setup.py arrives at ``version``."""
    limited_api: str | None = None
    """``cp38``, or a later Python where an extension asks for a newer stable ABI (0.22 and later: ``cp311``), for
    one abi3 wheel that serves every Python from there on; None for a wheel of one Python or a pure one."""
    compilers: tuple[Compiler, ...] = ()
    variables: Mapping[str, str] = {}
    """Environment variables that change the output (VLLM_*, CXXFLAGS, ...)."""
    cuda_home: Free[str | None] = None
    extensions: tuple[str, ...] = ()
    """The only extension modules that are built, for development; empty: all."""
    without: Free[Mapping[str, str]] = {}
    """Extension modules that a patch leaves out on purpose: name -> reason. The patch is part of the digest."""
    jobs: Free[int] = 1
    """Compilers at once."""
    jobs_fixed: Free[bool] = False
    """``jobs`` was asked for, so it is not lowered because of memory that units are only guessed to need."""
    learned_dir: Free[str] = ""
    """Folder for what is measured of translation units; empty: nothing is kept."""
    nvcc_threads: Free[int] = 1
    lean_headers: Free[bool] = False
    """The patch set ``lean-headers`` takes part. The patch is part of the digest; here it tells times apart."""
    compiler_cache: Free[CompilerCache] = "off"
    compiler_cache_dir: Free[str] = ""
    passes_dir: Free[str] = ""
    """Folder for what each pass of nvcc made (:mod:`~vllm_builder.stages.compile.passes`), behind ccache; empty: nvcc
    is called as a whole."""
    isolate: Free[bool] = False
    """No network while configuring and compiling. Not in the digest: it makes a build fail or changes nothing."""


class Attempt(Model):
    """One run of setup.py: with how many jobs, and why it was not the last (empty for the one that ended well)."""

    jobs: int
    reason: str = ""
    unit: str = ""
    """The source file whose compiler was killed, where the log names it."""


class Captured(Model):
    """What cmake did in a build, for a native layer: its ``calls``, and what its installs wrote, below ``files``."""

    calls: tuple[Mapping[str, Any], ...]
    files: Path


class CompileResult(Model):
    """``seconds`` is wall time; ``units`` counts ninja's edges; ``cache`` the compiler cache's answers."""

    wheel: Path
    log: Path
    seconds: float
    units: int
    resumed_from: int = 0
    """Edges that an earlier, broken-off build had finished."""
    cache: Mapping[str, int] = {}
    """``hits``, ``misses``, ``uncacheable`` of this build alone; empty without a compiler cache."""
    peak_memory: int = 0
    """Largest sum of resident memory of all compilers at once, in bytes, as sampled."""
    attempts: tuple[Attempt, ...] = ()
    """All runs of this build, in order; more than one where compilers were killed for memory."""
    left_out: tuple[str, ...] = ()
    """Optional parts that setup.py did not build, each with its reason."""
    full_headers: Mapping[str, str] = {}
    """Units that did not compile with lean headers and were compiled as upstream does: source file -> first error."""
    isolated: bool = False
    """It was configured and compiled with no network at all."""
    tools: Mapping[str, str] = {}
    """Versions of cmake, ninja, the compiler cache."""
    captured: Captured | None = None
    """None where setup.py called cmake in no way that could be answered later, or where nothing was compiled."""
