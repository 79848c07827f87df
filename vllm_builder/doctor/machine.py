"""Checks of the machine itself: driver, memory, disks, caches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.doctor.model import Check
from vllm_builder.processes import ask
from vllm_builder.settings.model import Settings
from vllm_builder.stages.plan.compatibility import compatibility
from vllm_builder.stages.store import Store

_SECONDS = 20
_GB = 1e9
_ROOM = {"problem": 2 * _GB, "warning": 20 * _GB}
"""Below the first no build is begun; a whole CUDA build with its environment wants the second."""


def driver(environ: Mapping[str, str]) -> Iterator[Check]:
    """The NVIDIA driver, the GPUs behind it, and the newest CUDA whose programs it runs."""
    gpus, said = _gpus(environ)
    if gpus is None:
        yield Check(
            name="driver",
            verdict="note",
            found="no NVIDIA driver: 'native' and running are not possible, building is",
            cure="Name the GPU with --arch.",
        )
        return
    if not gpus:
        yield Check(
            name="driver",
            verdict="warning",
            found=f"nvidia-smi does not answer ({said[:160]})",
            cure="Name the GPU with --arch; to run the wheel here, mend the driver.",
        )
        return
    newest = _runs(gpus[0][0])
    names = ", ".join(f"{name} ({cap})" for _, name, cap in gpus)
    yield Check(
        name="driver",
        verdict="good" if newest else "warning",
        found=f"{gpus[0][0]}, runs CUDA {newest or 'older than 11'}; {names}",
        cure="" if newest else "Install a newer driver to run the wheel here.",
    )


def driver_for(cuda: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether the driver of this machine, if it has one, runs what is compiled with a CUDA version."""
    gpus, _ = _gpus(environ)
    major = cuda.split(".")[0]
    if gpus and _runs(gpus[0][0]) < int(major):
        yield Check(
            name="driver",
            verdict="warning",
            found=f"driver {gpus[0][0]} does not run programs of CUDA {cuda}: the wheel is for another machine",
            cure=f"Install driver {compatibility().drivers.get(major, '')} or newer to run it here, or build with "
            "an older toolkit (--cuda-home).",
        )


def _runs(version: str) -> int:
    """The newest CUDA major version that a driver runs; 0 for none."""
    number = version.split(".")[0]
    known = compatibility().drivers.items()
    return max((int(m) for m, oldest in known if number.isdigit() and int(number) >= int(oldest)), default=0)


def _gpus(environ: Mapping[str, str]) -> tuple[list[list[str]] | None, str]:
    """Driver version, name and compute capability of each GPU (None: no driver), and what was said."""
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if tool is None:
        return None, ""
    query = "--query-gpu=driver_version,name,compute_cap"
    run = ask([tool, query, "--format=csv,noheader"], environ, seconds=_SECONDS)
    rows = [[word.strip() for word in line.split(",")] for line in run.stdout.splitlines()]
    return [row for row in rows if len(row) == 3], (run.stderr or run.stdout).strip()


def memory() -> Iterator[Check]:
    """What the limits of memory and cores (cgroups included) allow."""
    from vllm_builder.stages.compile.jobs import GIB, _free_memory, auto_jobs

    free = _free_memory(Path("/"))
    least = min((amount for amount, _ in free), default=0)
    jobs, reason = auto_jobs("cuda")
    short = least < 6 * GIB
    places = ", ".join(f"{amount / GIB:.1f} GiB free {whose}" for amount, whose in free)
    yield Check(
        name="memory",
        verdict="warning" if short else "good",
        found=f"{places or 'unknown'}; --jobs auto gives {jobs} ({reason})",
        cure="One CUDA compiler can need 5 GiB: free some memory, raise the container's limit, or take --jobs 1."
        if short
        else "",
    )


def isolation(settings: Settings) -> Iterator[Check]:
    """Whether the kernel allows a build without any network."""
    from vllm_builder.stages.compile.isolation import refusal

    found = refusal()
    if found is None:
        yield Check(name="isolation", verdict="good", found="a build can run without any network (--isolate)")
        return
    why, cure = found
    yield Check(
        name="isolation",
        verdict="problem" if settings.isolate else "note",
        found=f"--isolate is not possible: {why}",
        cure=cure,
    )


def disks(settings: Settings, cache: Cache) -> Iterator[Check]:
    """Free space and the right to write, where trees and caches go."""
    workspace = settings.workspace.expanduser().absolute()
    for name, folder, option in (
        ("workspace", workspace, "--workspace"),
        ("cache folder", cache.root, "--cache-dir"),
    ):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            yield Check(
                name=name,
                verdict="problem",
                found=f"{folder} cannot be written to",
                cure=f"Choose another folder with {option}.",
            )
            continue
        verdict = next((v for v, least in _ROOM.items() if free < least), "good")
        yield Check(
            name=name,
            verdict=verdict,
            found=f"{folder}: {free / _GB:.1f} GB free",
            cure=""
            if verdict == "good"
            else f"Free some space (`vllm-builder cache prune`), or choose another disk with {option}.",
        )


def caches(cache: Cache) -> Iterator[Check]:
    """What is kept already: each of these need not be fetched or made again."""
    counts = {
        "wheels": len(list(Store(cache.store).entries())),
        "toolkits": _count(cache.toolkits),
        "environments": _count(cache.environments),
        "downloads": _count(cache.downloads / "sha256"),
    }
    held = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    yield Check(name="caches", verdict="good" if held else "note", found=held or "empty")


def _count(folder: Path) -> int:
    try:
        return sum(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir())
    except OSError:
        return 0
