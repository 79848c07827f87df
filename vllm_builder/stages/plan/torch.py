"""Choosing the torch to compile against, and locking the build environment around it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vllm_builder.errors import BuilderError, ResolutionError, TorchMissing
from vllm_builder.events import Emit, Note
from vllm_builder.indexes import Indexes
from vllm_builder.memo import Memo
from vllm_builder.settings.model import PYTORCH_INDEX, Device, Settings
from vllm_builder.stages.environment.interpreter import torch_in
from vllm_builder.stages.environment.lock import locked_version, resolve_lock
from vllm_builder.stages.environment.model import EnvironmentSpec, Interpreter, Torch
from vllm_builder.stages.plan.release import Release

_HOUR, _DAY = 3600.0, 86400.0
Lock = Callable[[str, str], tuple[str, ...]]
"""(requirement, PyTorch index) -> lock."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask of the resolver: a requirement, and in words why."""

    requirement: str
    reason: str


def marker_environment(interpreter: Interpreter) -> dict[str, str]:
    """The PEP 508 environment of an interpreter on this machine."""
    return {
        "python_version": ".".join(interpreter.version.split(".")[:2]),
        "python_full_version": interpreter.version,
        "platform_machine": platform.machine(),
        "platform_system": platform.system(),
        "sys_platform": "linux" if platform.system() == "Linux" else platform.system().lower(),
        "os_name": os.name,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def choose_environment(
    settings: Settings,
    device: Device,
    release: Release,
    requires: Sequence[str],
    interpreter: Interpreter,
    indexes: Indexes,
    *,
    environ: Mapping[str, str],
    memo: Memo,
    emit: Emit,
    wanted: Wanted | None = None,
) -> tuple[EnvironmentSpec, Torch]:
    """Choose torch and lock everything.

    ``requires`` are the patched tree's build requirements and the tools that are needed besides, without torch;
    ``wanted`` is the torch that was already decided on, where its index is ``settings.torch_index``.

    Raises:
        TorchMissing, ResolutionError, OfflineMissing
    """
    indexes, backend = _torch_index(settings.torch_index, indexes)
    present = torch_in(interpreter)
    if settings.torch == "existing" and present is None:
        raise TorchMissing(
            f"There is no torch in the environment of {interpreter.path}.",
            why="--torch existing compiles against the torch that is already installed.",
            next="Install torch there, name another --python, or let vllm-builder fetch one with --torch auto.",
        )

    def lock(requirement: str | None, torch_backend: str) -> tuple[str, ...]:
        wanted = [*requires, requirement] if requirement else list(requires)
        return resolve_lock(
            wanted,
            interpreter,
            indexes,
            environ=environ,
            memo=memo,
            torch_backend=torch_backend,
            offline=settings.offline,
            refresh=settings.refresh,
            emit=emit,
        )

    if settings.torch in ("existing", "auto") and present is not None:
        spec = EnvironmentSpec(
            python=interpreter, lock=lock(None, ""), overlay=interpreter.site_packages, indexes=indexes
        )
        return spec, present

    wanted = wanted or _wanted(settings.torch, device, release, interpreter)
    # What had to fall back is remembered for a day: a network that was down must not decide for ever.
    question = [
        "torch",
        wanted.requirement,
        device,
        backend,
        list(requires),
        interpreter.tag,
        indexes.describe(),
    ]
    remembered = None if settings.refresh else memo.get(question, max_age=_DAY)
    if remembered is None:
        remembered = _lock_with_fallbacks(
            wanted,
            device,
            backend,
            lock,
            lambda: _newest_cpu_build_in_links(interpreter, indexes, environ),
            memo,
            settings,
            emit,
        )
        memo.put(question, remembered)
    locked, backend, reason = tuple(remembered[0]), remembered[1], remembered[2]
    version = locked_version(locked, "torch")
    if version is None:
        raise ResolutionError("The resolver returned no torch.", why=wanted.requirement, next="Report this.")
    torch = Torch(version=version, cuda=cuda_of(version, locked), origin=reason)
    return EnvironmentSpec(python=interpreter, lock=locked, indexes=indexes, torch_backend=backend), torch


def cuda_of(version: str, lock: Sequence[str]) -> str | None:
    """The CUDA version that a torch build is for: its local tag, else the runtime that it requires."""
    local = version.partition("+")[2]
    if match := re.match(r"cu(\d+)(\d)$", local):
        return f"{match[1]}.{match[2]}"
    if local:
        return None
    for line in lock:
        if match := re.match(r"nvidia-cuda-runtime(?:-cu\d+)?==(\d+\.\d+)", line):
            return match[1]
    return None


def _wanted(choice: str, device: Device, release: Release, interpreter: Interpreter) -> Wanted:
    if choice not in ("auto", "existing"):
        return Wanted(f"torch=={choice}", f"asked for {choice}")
    pin = release.torch_pin(device, marker_environment(interpreter))
    if pin is not None:
        return Wanted(f"torch=={pin[0]}", f"the release's own pin in {pin[1]}")
    return Wanted("torch", "the release has no pin: the newest that fits")


def _lock_with_fallbacks(
    wanted: Wanted,
    device: Device,
    backend: str,
    lock: Lock,
    in_links: Callable[[], str | None],
    memo: Memo,
    settings: Settings,
    emit: Emit,
) -> tuple[tuple[str, ...], str, str]:
    """Resolve, and for a device without CUDA prefer a build of torch without CUDA.

    The order: the configured indexes; PyTorch's own index of CPU builds; with ``--torch auto`` the newest CPU build
    in the configured find-links, and the pin without its build tag. What was taken is said in the reason.
    """
    public = wanted.requirement if "," in wanted.requirement else wanted.requirement.split("+")[0]
    second_best: tuple[tuple[str, ...], str, str] | None = None
    first_error: BuilderError | None = None
    for attempt in ("configured", "pytorch", "links", "public"):
        requirement, index, reason = wanted.requirement, backend, wanted.reason
        if attempt == "pytorch":
            if device == "cuda" or backend or settings.offline or _lately_unreachable(memo, settings):
                continue
            index, reason = "cpu", f"{reason}; from PyTorch's index of CPU builds"
        elif attempt == "links":
            found_there = (
                in_links() if device != "cuda" and settings.torch == "auto" and not backend else None
            )
            if found_there is None:
                continue
            requirement = f"torch=={found_there}"
            reason = (
                f"the newest CPU build that the configured find-links have; {reason} ({public}) has none here"
            )
        elif attempt == "public":
            if settings.torch != "auto" or public == requirement:
                continue
            requirement, reason = public, f"{reason}, without its build tag, which no index here has"
        try:
            found = lock(requirement, index)
        except BuilderError as problem:
            first_error = first_error or problem
            if attempt == "pytorch" and any("error sending request" in line for line in problem.details):
                memo.put(["pytorch index unreachable"], True)
            continue
        if device == "cuda" or cuda_of(locked_version(found, "torch") or "", found) is None:
            return found, index, reason
        second_best = second_best or (found, index, reason)
    if second_best is not None:
        emit(
            Note(
                stage="plan",
                level="warning",
                message=f"torch {locked_version(second_best[0], 'torch')} is a build for CUDA, and no CPU build could be "
                "reached; the wheel is linked to its CPU part alone (--torch-index gives another index)",
            )
        )
        return second_best
    assert first_error is not None
    raise first_error


def _newest_cpu_build_in_links(
    interpreter: Interpreter, indexes: Indexes, environ: Mapping[str, str]
) -> str | None:
    """The newest torch of the find-links that this interpreter can use, if it is a build without CUDA."""
    from vllm_builder.stages.environment.uv import run_uv

    if not indexes.find_links:
        return None
    only = indexes.model_copy(update={"no_index": True})
    command = [
        "pip",
        "compile",
        "-",
        "--python",
        interpreter.path,
        "--quiet",
        "--no-deps",
        "--no-header",
        "--no-annotate",
    ]
    run = run_uv(command, environ=environ, indexes=only, stdin="torch\n")
    version = locked_version(run.stdout.splitlines(), "torch") if run.returncode == 0 else None
    return version if version and version.endswith("+cpu") else None


def _lately_unreachable(memo: Memo, settings: Settings) -> bool:
    return not settings.refresh and bool(memo.get(["pytorch index unreachable"], max_age=_HOUR))


def _torch_index(choice: str | None, indexes: Indexes) -> tuple[Indexes, str]:
    """The indexes to ask, and the name of PyTorch's own index for torch alone."""
    if choice is None:
        return indexes, ""
    if PYTORCH_INDEX.fullmatch(choice):
        return indexes, choice
    return indexes.model_copy(update={"extra_index_urls": (*indexes.extra_index_urls, choice)}), ""
