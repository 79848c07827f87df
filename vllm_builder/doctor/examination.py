"""All checks in order. Each is bounded in time, and none of them changes anything but the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vllm_builder.cache import Cache
from vllm_builder.doctor import machine, network, toolchain
from vllm_builder.doctor.model import Check, Report
from vllm_builder.errors import BuilderError
from vllm_builder.events import Emit, ignore
from vllm_builder.memo import Memo
from vllm_builder.settings.layers import Layers
from vllm_builder.settings.model import Settings
from vllm_builder.stages.plan.make import make_plan
from vllm_builder.stages.plan.steps import default_cache

Checks = Callable[[], Iterator[Check]]


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at."""

    settings: Settings
    environ: Mapping[str, str]
    cache: Cache
    memo: Memo


def examine_machine(
    layers: Layers, environ: Mapping[str, str], *, version: str | None = None, emit: Emit = ignore
) -> Report:
    """Look at the machine, and with a version also whether that release could be planned on it.

    Args:
        layers: the settings, as for a plan.
        environ: the person's environment variables.
        version: the release, or None to look at the machine alone.
        emit: hears what planning tells.

    Raises:
        SettingsError, RecipeError: of a machine nothing is raised, it becomes a check.
    """
    settings = layers.resolve().settings
    cache = default_cache(settings)
    patient = Patient(settings, environ, cache, Memo(cache.memo, "plan"))
    parts: list[Checks] = [
        lambda: machine.driver(environ),
        lambda: toolchain.toolkits(patient.settings, environ, patient.memo),
        lambda: toolchain.python(patient.settings, environ, patient.memo),
        lambda: toolchain.compilers(environ, patient.memo),
        lambda: toolchain.tools(environ),
        machine.memory,
        lambda: machine.disks(settings, cache),
        lambda: machine.isolation(settings),
        lambda: machine.caches(cache),
        lambda: network.reach(settings, environ),
        lambda: network.shared_cache(settings, environ),
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        checks = [check for found in pool.map(_guarded, parts) for check in found]
    if version is not None:
        checks += _plan(layers, environ, emit)
    return Report(checks=tuple(checks))


def _guarded(part: Checks) -> list[Check]:
    """The checks of a part; what stops it is itself a finding."""
    found: list[Check] = []
    try:
        found.extend(part())
    except BuilderError as error:
        found.append(_problem("settings", error))
    return found


def _problem(name: str, error: BuilderError) -> Check:
    why = f" {error.why}" if error.why else ""
    return Check(name=name, verdict="problem", found=f"{error.what}{why}", cure=error.next)


def _plan(layers: Layers, environ: Mapping[str, str], emit: Emit) -> Iterator[Check]:
    try:
        plan, _ = make_plan(layers, environ=environ, emit=emit)
    except BuilderError as error:
        yield _problem("plan", error)
        return
    chosen = [f"vllm {plan.compile.version}", f"device {plan.device}"]
    if plan.compile.archs:
        chosen.append(f"for {', '.join(plan.compile.archs)}")
    if plan.torch is not None:
        chosen.append(f"torch {plan.torch.version}")
    if plan.toolkit is not None:
        made = "to be put together" if plan.toolkit.spec else plan.toolkit.home
        chosen.append(f"CUDA {plan.toolkit.version} ({made})")
    yield Check(name="plan", verdict="good", found=", ".join(chosen))
    if plan.toolkit is not None:
        yield from machine.driver_for(plan.toolkit.version, environ)
