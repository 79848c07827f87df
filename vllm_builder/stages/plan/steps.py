"""The single steps of planning, and what several commands need of the settings besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.errors import ArchError, ContradictionError, SettingsError
from vllm_builder.events import Emit
from vllm_builder.indexes import Indexes, redact
from vllm_builder.memo import Memo
from vllm_builder.settings.layers import Layers, Resolved, check_text
from vllm_builder.settings.model import Device, Settings
from vllm_builder.stages.compile.model import CompilerCache, CompileSpec
from vllm_builder.stages.environment.interpreter import torch_in
from vllm_builder.stages.environment.model import Interpreter
from vllm_builder.stages.plan.archs import parse_archs
from vllm_builder.stages.plan.cuda import CudaPlanner
from vllm_builder.stages.plan.model import Decision
from vllm_builder.stages.plan.pins import Pins
from vllm_builder.stages.plan.release import Release
from vllm_builder.stages.source.model import SourceKind, SourcePin, SourceRequest


def default_cache(settings: Settings) -> Cache:
    """``--cache-dir``, else the platform's folder for user caches."""
    if settings.cache_dir is not None:
        return Cache(settings.cache_dir.expanduser().absolute())
    from platformdirs import user_cache_path

    return Cache(user_cache_path("vllm-builder"))


def source_request(settings: Settings, indexes: Indexes) -> SourceRequest:
    """What the settings ask of the source stage; it carries the credentials that no plan holds."""
    kind: SourceKind
    path = None
    if settings.source in ("auto", "git", "pypi"):
        kind = settings.source  # type: ignore[assignment]  # narrowed by the test above
    else:
        kind, path = "path", Path(settings.source).expanduser().absolute()
    if kind == "auto" and settings.git_url != Settings.model_fields["git_url"].default:
        # A repository that was named is used or refused; the sdist of an index would be another source.
        kind = "git"
    return SourceRequest(
        version=settings.version,
        kind=kind,
        path=path,
        git_url=settings.git_url,
        indexes=indexes,
        offline=settings.offline,
        refresh=settings.refresh,
    )


@dataclass(slots=True)
class Steps:
    """The steps of one planning, in order; each adds to ``decisions``."""

    layers: Layers
    environ: Mapping[str, str]
    emit: Emit
    resolved: Resolved
    cache: Cache
    memo: Memo
    pins: Pins | None = None
    portable: bool = False
    decisions: list[Decision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    def say(self, what: str, value: object, origin: str) -> None:
        self.decisions.append(Decision(what=what, value=redact(str(value)), origin=redact(origin)))

    def origin(self, name: str) -> str:
        return self.resolved.origins[name]

    # -- device -------------------------------------------------------------------------------
    def device(self) -> Device:
        settings = self.settings
        archs_asked = bool(settings.arch) and self.origin("arch") != "TORCH_CUDA_ARCH_LIST"
        if settings.device is not None:
            if settings.device != "cuda" and archs_asked:
                raise ContradictionError(
                    f"--arch is for CUDA, and the device is {settings.device}.",
                    why=f"device {settings.device} comes from: {self.origin('device')}; arch "
                    f"{', '.join(settings.arch)} from: {self.origin('arch')}.",
                    next="Leave out one of the two.",
                )
            self.say("device", settings.device, self.origin("device"))
            return settings.device
        if archs_asked:
            self.say("device", "cuda", f"an architecture was asked for ({self.origin('arch')})")
            return "cuda"
        if driver_answers(self.environ):
            self.say("device", "cuda", "the machine has an NVIDIA driver that answers")
            return "cuda"
        self.say("device", "cpu", "neither --device nor --arch, and the machine has no NVIDIA driver")
        return "cpu"

    # -- source -------------------------------------------------------------------------------
    def source(self, indexes: Indexes) -> tuple[SourcePin, SourceRequest]:
        from vllm_builder.stages.source import resolve

        settings = self.settings
        request = source_request(settings, indexes)
        pin = self.pins.source if self.pins else resolve(request, self.cache, self.emit)
        self.say("release", pin.release, f"VERSION {settings.version}")
        self.say("source", f"{pin.kind} {pin.name} ({pin.identity[:19]})", pin.reason)
        return pin, request

    # -- CUDA ---------------------------------------------------------------------------------
    def archs(self) -> tuple[str, ...]:
        asked = self.settings.arch
        if not asked:
            if not driver_answers(self.environ):
                raise ArchError(
                    "Which GPU should the wheel be for?",
                    why="The device is cuda, no --arch was given, and no driver on this machine answers.",
                    next="Give --arch, e.g. --arch sm_100 for a B200 or --arch sm_90a for an H100.",
                )
            asked = ("native",)
        archs = parse_archs(asked, self.environ)
        self.say(
            "architectures", ", ".join(archs), self.origin("arch") if self.settings.arch else "the driver"
        )
        return archs

    def cuda(
        self, release: Release, version: str, archs: tuple[str, ...], interpreter: Interpreter
    ) -> CudaPlanner:
        settings = self.settings
        return CudaPlanner(
            settings=settings,
            origins=self.resolved.origins,
            release=release,
            version=version,
            archs=archs,
            interpreter=interpreter,
            present=torch_in(interpreter) if settings.torch in ("auto", "existing") else None,
            environ=self.environ,
            memo=self.memo,
            pinned=self.pins.toolkit if self.pins else None,
        )

    # -- jobs and cache -----------------------------------------------------------------------
    def with_jobs(self, spec: CompileSpec) -> CompileSpec:
        """The number of jobs needs the rest of the spec: units are measured per toolchain."""
        from vllm_builder.stages.compile import learned
        from vllm_builder.stages.compile.jobs import auto_jobs

        if self.settings.jobs == "auto":
            units = learned.read(learned.learned_file(self.cache.units, spec)).values()
            peaks = [peak for unit in units if isinstance(peak := unit.get("peak"), int)]
            jobs, reason = auto_jobs(spec.device, nvcc_threads=spec.nvcc_threads, peaks=peaks)
        else:
            jobs, reason = self.settings.jobs, self.origin("jobs")
            if reason == "MAX_JOBS" and spec.device == "cuda" and spec.nvcc_threads > 1:
                # As setup.py does; --jobs counts compilers and is not divided.
                reason = f"MAX_JOBS={jobs} // {spec.nvcc_threads} threads of each nvcc"
                jobs = max(1, jobs // spec.nvcc_threads)
        self.say("jobs", jobs, reason)
        return spec.model_copy(update={"jobs": jobs, "jobs_fixed": self.settings.jobs != "auto"})

    def isolate(self, compiler_cache: CompilerCache) -> None:
        from vllm_builder.stages.compile import isolation

        isolation.require(compiler_cache, self.origin("isolate"))
        self.say("network while compiling", "none", f"--isolate ({self.origin('isolate')})")

    def variables(self, release: Release, device: Device) -> dict[str, str]:
        from vllm_builder.stages.compile.buildenv import decided_by_plan, output_variables

        named = release.build_variables()
        # What speaks to every compiler counts always; what only this project reads, where this release reads it.
        own = ("VLLM_", "ENABLE_")
        found = {
            k: v for k, v in output_variables(self.environ).items() if k in named or not k.startswith(own)
        }
        found |= {k: v for k, v in self.environ.items() if v and k.startswith("VLLM_") and k in named}
        found = {
            k: v
            for k, v in sorted(found.items())
            if not decided_by_plan(k) and not k.startswith("VLLM_BUILDER_")
        }
        from_builder, _ = self.layers.environment.get("variables", ({}, ""))
        # What was said to vllm-builder itself counts before the environment at large, and that before files.
        fixed = self.layers.fixed.get("variables", {})
        named_here = {**from_builder, **self.layers.command_line.get("variables", {}), **fixed}
        for name in self.settings.variables:
            if decided_by_plan(name) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise SettingsError(
                    f"The variable {name!r} cannot be set with --variable or [variables].",
                    why="It is no name of a variable, or the plan decides it (device, version, jobs, compilers).",
                    next="Use the option for it: --device, --jobs, --build-type, --torch ...; compilers with CC and CXX.",
                )
        if device == "empty":
            # Nothing is compiled, so what speaks to compilers changes nothing.
            found = {k: v for k, v in found.items() if k.startswith(("VLLM_", "SOURCE_DATE_EPOCH"))}
        chosen = {**self.settings.variables, **found, **named_here}
        for name, value in chosen.items():
            check_text(name, value)
            if name in fixed:
                origin = self.layers.fixed_origin
            elif name in named_here:
                here = name in self.layers.command_line.get("variables", {})
                origin = "command line" if here else "VLLM_BUILDER_VARIABLES"
            else:
                origin = "environment" if name in found else "a file or recipe"
            self.say(f"variable {name}", value, origin)
        return chosen


def driver_answers(environ: Mapping[str, str]) -> bool:
    """Whether an NVIDIA driver is loaded (the device file is there, so that no process is needed to know)."""
    del environ
    return Path("/dev/nvidiactl").exists()
