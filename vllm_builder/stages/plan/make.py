"""Making the plan: everything is resolved here, and nowhere else.

Pure but for the cache: it reads the release, the indexes and the machine, and writes only what it had to
download or learn.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vllm_builder.errors import ArchError, ContradictionError, SettingsError, did_you_mean
from vllm_builder.events import Emit, StageFinished, StageStarted, ignore
from vllm_builder.indexes import read_indexes
from vllm_builder.memo import Memo
from vllm_builder.resources import shipped
from vllm_builder.settings.layers import Layers, add_device_recipe
from vllm_builder.settings.model import Device, Settings
from vllm_builder.settings.recipe import is_shipped
from vllm_builder.stages.compile.model import Compiler, CompilerCache, CompileSpec
from vllm_builder.stages.environment.interpreter import find_interpreter
from vllm_builder.stages.environment.lock import locked_version
from vllm_builder.stages.patch.operations import PatchSelection, PatchSet
from vllm_builder.stages.plan.archs import parse_arch
from vllm_builder.stages.plan.cuda import torch_to_ask
from vllm_builder.stages.plan.extensions import extensions_left_out
from vllm_builder.stages.plan.externals import folder_variables, plan_externals
from vllm_builder.stages.plan.finish import finish_spec
from vllm_builder.stages.plan.model import Plan, Recipe
from vllm_builder.stages.plan.pins import Pins
from vllm_builder.stages.plan.release import Release
from vllm_builder.stages.plan.requires import build_requirements
from vllm_builder.stages.plan.steps import Steps, default_cache
from vllm_builder.stages.plan.torch import choose_environment
from vllm_builder.stages.toolkit.model import Toolkit
from vllm_builder.stages.vendor.model import ExternalSource
from vllm_builder.stages.verify.expectations import planned_expectations

_CHANGES_OUTPUT = frozenset(
    {"device", "arch", "torch", "pin_torch", "build_type", "parameters", "variables"}
    | {"with_patch", "without_patch", "keep_dead", "lean_headers", "extensions"}
)
"""Settings of a recipe that take part in the digest; jobs and folders do not."""

_SHOWN = frozenset(
    {
        "version",
        "device",
        "arch",
        "recipe",
        "variables",
        "jobs",
        "build_type",
        "extensions",
        "isolate",
        "pin_torch",
    }
)
"""Settings that have a line of their own in the decisions."""
LEAN = "lean-headers"
"""The patch set that the setting ``lean_headers`` switches."""
_PLACES = frozenset({"git_url", "externals", "lock_file"})


def make_plan(
    layers: Layers,
    *,
    environ: Mapping[str, str] | None = None,
    emit: Emit = ignore,
    pins: Pins | None = None,
    portable: bool = False,
) -> tuple[Plan, Settings]:
    """Resolve everything into one plan.

    Args:
        pins: answers of an earlier planning, taken in place of asking.
        portable: lock also those tools of the build environment that this machine happens to have.

    Returns:
        the plan, and the settings that it was made from (for what is no part of a plan: where to put things).

    Raises:
        any class of :mod:`vllm_builder.errors` from 1x to 5x.
    """
    import time

    started = time.monotonic()
    emit(StageStarted(stage="plan", title="Plan"))
    environ = dict(os.environ if environ is None else environ)
    resolved = layers.resolve()
    cache = default_cache(resolved.settings)
    maker = Steps(layers, environ, emit, resolved, cache, Memo(cache.memo, "plan"), pins, portable)
    plan = _make(maker)
    emit(StageFinished(stage="plan", seconds=time.monotonic() - started, summary=_summary(plan)))
    return plan, maker.settings


def _make(maker: Steps) -> Plan:
    from vllm_builder.stages.compile.headers import has_header
    from vllm_builder.stages.compile.rust import rust_parts, rust_tools
    from vllm_builder.stages.compile.toolchain import check_compilers, probe_compilers
    from vllm_builder.stages.compile.versions import limited_api_for, scm_version_for
    from vllm_builder.stages.patch import load, patterns_of, select
    from vllm_builder.stages.source import survey

    environ, memo, layers, pins = maker.environ, maker.memo, maker.layers, maker.pins
    device = maker.device()
    if add_device_recipe(layers, device):
        maker.say("recipe", layers.recipe_name, f"the device's own (--recipe none for none){_place(layers)}")
    elif layers.recipe_name:
        maker.say("recipe", layers.recipe_name, f"{maker.origin('recipe')}{_place(layers)}")
    maker.resolved = layers.resolve()
    indexes = pins.indexes if pins else read_indexes(environ)
    pin, request = maker.source(indexes)
    # Tables of the recipe that name releases count from here on.
    maker.resolved = layers.resolve(pin.release)
    settings = maker.settings
    folders = (pins.patches,) if pins else (shipped("patches"), *(p.expanduser() for p in settings.patches))
    sets = load(folders)
    parameters = {name for patch_set in sets.values() for name in patch_set.parameters}
    for name in settings.parameters:
        if name not in parameters:
            raise SettingsError(
                f"No patch set asks for a parameter {name!r}{did_you_mean(name, parameters)}.",
                next=f"Known parameters: {', '.join(sorted(parameters)) or 'none'}.",
            )
    folder = survey(
        pin,
        maker.cache,
        maker.emit,
        patterns=patterns_of(sets),
        offline=settings.offline,
        request=request,
    )
    release = Release(folder, pin.location if pin.location.startswith("/") else pin.name)

    archs: tuple[str, ...] = ()
    toolkit: Toolkit | None = None
    if device == "cuda":
        archs = maker.archs()
    requires_python, required_by = release.requires_python(), "the release"
    if pins:
        requires_python, required_by = pins.requires_python(requires_python), pins.origin
    interpreter, reason = find_interpreter(
        settings.python,
        requires_python,
        environ=environ,
        memo=memo,
        offline=settings.offline,
        required_by=required_by,
    )
    maker.say("Python", f"{interpreter.version} ({interpreter.path})", reason)

    def chosen(facts: Mapping[str, str | bool]) -> PatchSelection:
        return select(
            sets,
            release=pin.release,
            device=device,
            facts={**settings.parameters, **facts},
            enable=settings.with_patch,
            disable=_disabled(settings, sets),
        )

    compiler_cache = _compiler_cache(settings.compiler_cache, device)
    if settings.isolate:
        maker.isolate(compiler_cache)
    cuda = wanted = None
    if device == "cuda":
        cuda = maker.cuda(release, pin.release, archs, interpreter)
        wanted, settings = torch_to_ask(cuda, cuda.choose())
    if pins:
        environment, torch = pins.environment(interpreter)
    else:
        environment, torch = choose_environment(
            settings,
            device,
            release,
            build_requirements(release, chosen({}), compiler_cache, environ, memo, portable=maker.portable),
            interpreter,
            indexes,
            environ=environ,
            memo=memo,
            emit=maker.emit,
            wanted=wanted,
        )
    settings = maker.settings
    maker.say("torch", torch.version, torch.origin)
    if cuda is not None:
        outcome = cuda.confirm(torch)
        toolkit = cuda.toolkit(outcome.toolkit, indexes, maker.cache, maker.emit)
        cuda.explain(outcome)
        maker.decisions += cuda.decisions

    split = _passes(maker, compiler_cache, toolkit, environment.lock)
    compilers: tuple[Compiler, ...] = ()
    facts: dict[str, str | bool] = {"torch": torch.version.split("+")[0]}
    setuptools = locked_version(environment.lock, "setuptools")
    if setuptools is not None:
        facts["setuptools"] = setuptools
    if device != "empty":
        compilers = (
            cuda.compilers(toolkit) if cuda and toolkit else probe_compilers(device, environ, memo=memo)
        )
        check_compilers(compilers, pin.release, device, platform.machine())
        for compiler in compilers:
            maker.say(f"{compiler.language} compiler", f"{compiler.id} {compiler.version}", compiler.path)
    if toolkit is not None:
        facts["cuda"] = toolkit.version
    if device == "cpu":
        header = has_header("numa.h", compilers, environ)
        facts["numa"] = header is not None
        facts["torch_cuda"] = torch.cuda is not None
        if header is None:
            # Said in the plan; while building, the patch set that switches it off says it.
            maker.notes.append(
                "numa.h was not found: NUMA support is switched off (Debian: libnuma-dev; or set NUMACTL_DIR)"
            )
        maker.say("NUMA", "on" if header else "off", str(header) if header else "numa.h was not found")
    selection = chosen(facts)
    for name in selection.sets:
        count = sum(step.set == name for step in selection.steps)
        maker.say(
            "patch set", name, f"{count} operation{'s' if count != 1 else ''} for this release and device"
        )

    left_out = extensions_left_out(
        folder, pin.release, archs, chosen=settings.extensions, keep_dead=settings.keep_dead
    )
    for line in left_out.told:
        maker.say(*line)
    variables = maker.variables(release, device)
    externals = plan_externals(
        folder,
        pin.release,
        device=device,
        settings=settings,
        cache=maker.cache,
        cuda=toolkit.version if toolkit else None,
        archs=archs,
        variables=variables,
        emit=maker.emit,
    )
    for line in externals.told:
        maker.say(*line)
    finish, pinned, why_pinned = finish_spec(settings.pin_torch, device, torch, variables)
    maker.say("required torch", pinned, why_pinned)
    selection = selection.model_copy(update={"steps": (*selection.steps, *left_out.steps, *externals.steps)})

    local = f"cu{toolkit.version.replace('.', '')}" if toolkit else device
    limited_api, why = limited_api_for(folder, device, python_tag=interpreter.tag)
    pure = device == "empty" and limited_api is None and not why
    rust = None
    if parts := rust_parts(folder):
        rust = rust_tools(folder, environ) or "absent"
        named = ", ".join(part.target for part in parts)
        maker.say("Rust part", f"left out: {named}" if rust == "absent" else named, f"Rust toolchain: {rust}")
    maker.say(
        "Python ABI", limited_api or ("none" if pure else interpreter.tag), why or "no compiled extension"
    )
    maker.say("build type", settings.build_type, maker.origin("build_type"))
    compile_spec = CompileSpec(
        device=device,
        archs=archs,
        build_type=settings.build_type,
        version=f"{pin.release}+{local}",
        scm_version=scm_version_for(folder, pin.release, device, local, toolkit.version if toolkit else None),
        limited_api=limited_api,
        compilers=compilers,
        variables=variables,
        cuda_home=toolkit.home if toolkit else None,
        extensions=settings.extensions,
        without=left_out.reasons,
        learned_dir=str(maker.cache.units),
        nvcc_threads=settings.nvcc_threads,
        lean_headers=LEAN in selection.sets,
        compiler_cache=compiler_cache,
        isolate=settings.isolate,
        compiler_cache_dir=str(maker.cache.sccache if compiler_cache == "sccache" else maker.cache.ccache),
        passes_dir=str(maker.cache.passes) if split else "",
    )
    compile_spec = maker.with_jobs(compile_spec)
    for name, origin in maker.resolved.origins.items():
        if origin == layers.fixed_origin and _is_of_course(name, settings):
            continue
        if origin != "default" and name not in _SHOWN:
            maker.say(f"setting {name.replace('_', '-')}", _plainly(getattr(settings, name)), origin)
    recipe = None
    if layers.recipe is not None:
        values = layers.recipe.for_release(pin.release)
        recipe = Recipe(
            name=layers.recipe_name or "",
            values={k: _in_order(k, v) for k, v in values.items() if k in _CHANGES_OUTPUT},
        )
    return Plan(
        source=pin,
        device=device,
        recipe=recipe,
        externals=externals.lock,
        folders=folder_variables(variables),
        patches=selection,
        torch=None if device == "empty" else torch,
        toolkit=toolkit,
        rust=rust,
        python_abi=None if limited_api or pure else interpreter.tag,
        platform=plan_platform(),
        compile=compile_spec,
        finish=finish,
        environment=environment,
        expectations=planned_expectations(
            folder, pin.release, compile_spec, torch, interpreter.version, rust
        ),
        build_torch=torch,
        decisions=tuple(maker.decisions),
        notes=tuple(maker.notes),
        workspace_hint=str(settings.workspace),
    )


def _disabled(settings: Settings, sets: Mapping[str, PatchSet]) -> tuple[str, ...]:
    """Patch sets that are left out: those that were named, and the one that has a setting of its own."""
    if settings.lean_headers or LEAN not in sets:
        return settings.without_patch
    if LEAN in settings.with_patch:
        raise ContradictionError(
            f"The patch set {LEAN} is asked for with --with-patch and switched off with --no-lean-headers.",
            why="Both decide whether it takes part.",
            next="Leave one of the two out.",
        )
    return (*settings.without_patch, LEAN)


def _is_of_course(name: str, settings: Settings) -> bool:
    """What a bundle decides says nothing where it is the default, or a folder of the cache."""
    info = Settings.model_fields[name]
    return name in _PLACES or getattr(settings, name) == info.default


def plan_platform() -> str:
    """``linux-x86_64``: what a plan says of the machine."""
    return f"{platform.system().lower()}-{platform.machine()}"


def _plainly(value: object) -> object:
    """A value of the settings as a person writes it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} = {_plainly(item)}" for key, item in value.items())
    if isinstance(value, ExternalSource):
        given = value.model_dump(mode="json", exclude_none=True)
        return ", ".join(f"{key} {_plainly(item)}" for key, item in given.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _place(layers: Layers) -> str:
    """Where a recipe was read, unless it is a shipped one that was meant."""
    path = layers.recipe.path if layers.recipe is not None else None
    if path is None or path.parent == shipped("recipes"):
        return ""
    instead = ", in place of the shipped one" if is_shipped(path.stem) else ""
    return f"; from {path}{instead}"


def _in_order(name: str, value: Any) -> Any:
    """Lists of a recipe (architectures, patch sets, extensions) mean the same in any order and with repetitions."""
    if not isinstance(value, list | tuple):
        return value
    words = {str(item) for item in value}
    if name == "arch":
        # Where the command line chose others, these were never looked at.
        with suppress(ArchError):
            words = {parse_arch(word) if word.lower() != "native" else word for word in words}
    return sorted(words)


def _compiler_cache(choice: str, device: Device) -> CompilerCache:
    if choice == "split" and device != "cuda":
        from vllm_builder.stages.compile import splitting

        splitting.choose(choice, None)
    if device == "empty":
        return "off"
    return "ccache" if choice in ("auto", "split") else choice  # type: ignore[return-value]  # the settings model holds the words


def _passes(
    maker: Steps, compiler_cache: CompilerCache, toolkit: Toolkit | None, lock: tuple[str, ...]
) -> bool:
    """Whether each pass of nvcc is cached by itself."""
    from vllm_builder.stages.compile import splitting

    if toolkit is None:
        return False
    split, why = splitting.choose(maker.settings.compiler_cache, toolkit.version)
    if compiler_cache == "sccache":
        splitting.check_sccache(toolkit.version, locked_version(lock, "sccache"))
    if compiler_cache == "ccache":
        maker.say("compiler cache", "ccache, then each pass of nvcc" if split else "ccache", why)
    return split


def _summary(plan: Plan) -> str:
    torch = f", torch {plan.torch.version}" if plan.torch else ""
    return f"{plan.compile.version} for {', '.join(plan.compile.archs) or plan.device}{torch} -> {plan.digest[:12]}"
